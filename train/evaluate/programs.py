"""Completions drawn batch by batch, programs run in parallel; both are kept as they come, and not done twice."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from conf.errors import ConfigError
from conf.run_folder import append_records, repair_records
from parallel.mesh import ProcessMesh
from train.evaluate.problems import Row
from train.evaluate.sandbox import Limits, Outcome, SandboxError, isolation, run_programs

CHUNK = 64  # programs between two writes of their results

Key = tuple[Any, ...]


def key_of(row: Row) -> Key:
    """What tells one sample from another."""
    return (row["task_id"], row.get("case", 0), row["sample"])


def draw(
    path: Path,
    wanted: Sequence[Row],
    batch_size: int,
    write: Callable[[list[Row]], list[Row]],
    mesh: ProcessMesh,
    title: str,
) -> list[Row]:
    """The samples `wanted`, with what `write` adds to each batch of them; those in `path` already are taken from there.

    Every process calls it; the main one keeps the file.
    """
    rows = {key_of(row): row for row in _from_main(mesh, lambda: repair_records(path))}
    todo = [row for row in wanted if key_of(row) not in rows]
    with progress(mesh, title, len(wanted), len(wanted) - len(todo)) as advance:
        for start in range(0, len(todo), batch_size):
            written = write(list(todo[start : start + batch_size]))
            if mesh.is_main:
                append_records(path, written)
            rows |= {key_of(row): row for row in written}
            advance(len(written))
    return [rows[key_of(row)] for row in wanted]


def judge(
    path: Path,
    samples: Sequence[Row],
    program: Callable[[Row], str],
    right: Callable[[Row, str], bool],
    limits: Limits,
    workers: int | None,
    mesh: ProcessMesh,
    title: str,
) -> dict[Any, list[bool]]:
    """Run the program of each sample: task_id -> whether each of its samples passed. Main process only.

    `path` keeps {task_id, case, sample, passed, result} of each.
    right: whether what a program that reached its end printed is what was asked for.
    """
    if isolation() is not None:
        print(f"programs are not shut off from files and network here: {isolation()}", file=sys.stderr)
    results = {key_of(row): row for row in repair_records(path)}
    todo = [row for row in samples if key_of(row) not in results]
    with progress(mesh, title, len(samples), len(samples) - len(todo)) as advance:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            fresh: list[Row] = []
            for row, outcome in zip(chunk, _run(map(program, chunk), limits, workers), strict=True):
                passed = outcome.passed and right(row, outcome.output)
                result = "passed" if passed else outcome.detail or "wrong output"
                names: Row = {name: row[name] for name in ("task_id", "case", "sample") if name in row}
                fresh.append({**names, "passed": passed, "result": result})
                advance(1)
            append_records(path, fresh)
            results |= {key_of(row): row for row in fresh}
    outcomes: dict[Any, list[bool]] = defaultdict(list)
    for row in samples:
        outcomes[row["task_id"]].append(results[key_of(row)]["passed"])
    return outcomes


def _run(programs: Iterable[str], limits: Limits, workers: int | None) -> Iterator[Outcome]:
    try:
        yield from run_programs(programs, limits, workers)
    except SandboxError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def progress(mesh: ProcessMesh, title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on the main process's terminal; what it gives is called with how many more are done."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not mesh.is_main or done == total) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _from_main(mesh: ProcessMesh, read: Callable[[], list[Row]]) -> list[Row]:
    return read() if mesh.size == 1 else mesh.broadcast_object(read() if mesh.is_main else None)
