"""Samples generated in batches, their programs run in parallel; both are written as they come, and resume there."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from conf.errors import ConfigError
from conf.run_folder import append_records, repair_records
from parallel.mesh import ProcessMesh
from train.evaluate.sandbox import Limits, Outcome, SandboxError, Trial, run_programs
from train.sample.replicas import spread
from train.stop import StopSignal

CHUNK = 64  # programs between two writes of their results
# Text of the functions that a program's text may call inside the sandbox.
SCORES = Path(__file__).with_name("scores.py").read_text(encoding="utf-8")

Sample = dict[str, Any]  # {task_id, sample} and, once it is generated, the completion or program
Key = tuple[Any, ...]


def sample_key(row: Sample) -> Key:
    """Identifies a sample among those of its benchmark and temperature."""
    return (row["task_id"], row.get("case", 0), row["sample"])


def generate_samples(
    path: Path,
    wanted: Sequence[Sample],
    batch_size: int,
    complete: Callable[[list[Sample]], list[Sample]],
    mesh: ProcessMesh,
    title: str,
    stop: StopSignal | None = None,
) -> list[Sample]:
    """The samples `wanted`, with what `complete` adds to each batch of them; those already in `path` are read from it.

    Every process calls it; the main one writes the file. Replicas complete different batches (`spread`).
    """
    rows = {sample_key(row): row for row in _from_main(mesh, lambda: repair_records(path))}
    todo = [row for row in wanted if sample_key(row) not in rows]
    with progress(mesh, title, len(wanted), len(wanted) - len(todo)) as advance:
        for completed in spread(mesh, todo, batch_size, complete, stop):
            if mesh.is_main:
                append_records(path, completed)
            rows |= {sample_key(row): row for row in completed}
            advance(len(completed))
    return [rows[sample_key(row)] for row in wanted]


def run_samples(
    path: Path,
    samples: Sequence[Sample],
    program: Callable[[Sample], Trial | str],
    limits: Limits,
    workers: int | None,
    mesh: ProcessMesh,
    title: str,
    stop: StopSignal | None = None,
) -> dict[Any, list[bool]]:
    """Run the program of each sample: task_id -> whether each of its samples passed. Main process only.

    A sample passes where its harness, or without one its program, reaches its end. `path` gets {task_id, case, sample,
    passed, result} of each.
    """
    results: dict[Key, Sample] = {sample_key(row): row for row in repair_records(path)}
    todo = [row for row in samples if sample_key(row) not in results]
    with progress(mesh, title, len(samples), len(samples) - len(todo)) as advance:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            fresh: list[Sample] = []
            for row, outcome in zip(chunk, _run(map(program, chunk), limits, workers), strict=True):
                result = "passed" if outcome.passed else outcome.detail
                key: Sample = {name: row[name] for name in ("task_id", "case", "sample") if name in row}
                fresh.append({**key, "passed": outcome.passed, "result": result})
                advance(1)
            append_records(path, fresh)
            if stop is not None and stop.received:
                raise KeyboardInterrupt
            results |= {sample_key(row): row for row in fresh}
    passed: dict[Any, list[bool]] = defaultdict(list)
    for row in samples:
        passed[row["task_id"]].append(results[sample_key(row)]["passed"])
    return passed


def _run(programs: Iterable[Trial | str], limits: Limits, workers: int | None) -> Iterator[Outcome]:
    try:
        yield from run_programs(programs, limits, workers)
    except SandboxError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def progress(mesh: ProcessMesh, title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on the main process's terminal; yields a function to call with the number of further items done."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not mesh.is_main or done == total) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def _from_main(mesh: ProcessMesh, read: Callable[[], list[Sample]]) -> list[Sample]:
    return read() if mesh.size == 1 else mesh.broadcast_object(read() if mesh.is_main else None)
