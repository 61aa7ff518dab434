"""`python -m launch status`: every run below a folder, as its own records and the queue tell it."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from conf.compose import load_settings
from conf.errors import ConfigError
from conf.exit_codes import INTERRUPTED
from conf.run_folder import is_finished
from launch.jobs import StartedJob, read_jobs
from launch.slurm import queue

TAIL_BYTES = 65536  # of a file's end that is read for its newest lines

Queue = dict[str, tuple[str, str]]  # Slurm's job id -> (state, reason)


@dataclass(frozen=True)
class Status:
    """One run. step, steps: of the stage. seconds_left: to the end of the last stage, at the present speed."""

    run: str
    state: str
    stage: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    job: str = ""
    note: str = ""


def runs_below(root: Path) -> list[Path]:
    """Folders of runs in `root`, or `root` where it is one. Errors: `ConfigError` where there is none."""
    if (root / "config.yaml").is_file():
        return [root]
    found = sorted(path.parent for path in root.glob("*/config.yaml"))
    if not found:
        raise ConfigError(f"there is no run in {root}; say where with root=...")
    return found


def status(run: Path, jobs_queue: Queue) -> Status:
    """How `run` stands. A file that is half-written is told, not raised."""
    try:
        settings = load_settings(run / "config.yaml")
    except ConfigError as error:
        return Status(run.name, "unreadable", note=str(error))
    stages, jobs = list(settings.stages), read_jobs(run)
    finished = [name for name in stages if is_finished(run, name)]
    row = _newest_step(run / "metrics.jsonl")
    stage = next((name for name in stages if name not in finished), stages[-1])
    current = row if row.get("stage") == stage else {}
    step, steps = current.get("step", 0), settings.stages[stage].steps
    speed, left = row.get("tokens_per_second"), None
    if speed:
        tokens = {
            name: s.steps * s.global_batch_size * settings.model.context_length for name, s in settings.stages.items()
        }
        todo = sum(tokens[name] for name in stages if name not in finished)
        left = (todo - tokens[stage] * step / steps if stage not in finished else 0) / speed
    if len(finished) == len(stages):
        return Status(run.name, "finished", stage, steps, steps, row.get("loss"), speed, None, _id(jobs[-1:]))
    alive = [(job, state) for job in jobs if (state := job_state(job, jobs_queue))]
    if alive:
        states = {state for _, (state, _) in alive}
        job, (state, reason) = next(((job, s) for job, s in alive if s[0] == "running"), alive[0])
        note = reason if "running" not in states and reason not in ("None", "") else ""
        return Status(run.name, state, stage, step, steps, current.get("loss"), speed, left, _id([job]), note)
    state, note = _ended(run, [job for job in jobs if stage in job.stages], bool(row))
    return Status(run.name, state, stage, step, steps, current.get("loss"), speed, None, _id(jobs[-1:]), note)


def active_job(run: Path, jobs_queue: Queue) -> str | None:
    """The job that trains `run` now or will, None without one."""
    for job in read_jobs(run):
        state = job_state(job, jobs_queue)
        if state:
            return f"{'job' if job.kind == 'slurm' else 'process'} {job.id} ({state[0]})"
    return None


def job_state(job: StartedJob, jobs_queue: Queue) -> tuple[str, str] | None:
    """(state, reason) of a job that is queued or runs, None for one that has ended."""
    if job.kind == "slurm":
        return jobs_queue.get(job.id)
    if job.host != platform.node() or not psutil.pid_exists(int(job.id)):
        return None
    began = psutil.Process(int(job.id)).create_time()  # process ids come again
    return ("running", "") if began <= job.started else None


def _id(jobs: list[StartedJob]) -> str:
    return jobs[0].id if jobs else ""


def _ended(run: Path, jobs: list[StartedJob], began: bool) -> tuple[str, str]:
    """(state, note) of a run that has no job any more and is not finished."""
    code = jobs[-1].exit_code(run) if jobs else None
    if code == INTERRUPTED:
        return "stopped", "launch again to go on"
    if code:
        return "failed", f"exit code {code}: {_last_error(run / jobs[-1].log)}"
    if jobs and code is None:
        return ("killed" if began else "cancelled"), f"launch again to go on; {_last_error(run / jobs[-1].log)}"
    return "stopped", "launch again to go on"


def _last_error(log: Path) -> str:
    lines = [line for line in tail(log) if "error:" in line]
    return lines[-1].strip()[-200:] if lines else f"see {log}"


def tail(path: Path) -> list[str]:
    """The last lines of a file; none where it is missing."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()


def _newest_step(path: Path) -> dict[str, Any]:
    """The newest complete record of a training step, empty without one."""
    for line in reversed(tail(path)):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "loss" in row:
            return row
    return {}


def show(words: list[str]) -> int:
    """`status [root=runs]`: print the table, and below it what there is to say of single runs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    root = "runs"
    for word in words:
        key, _, value = word.partition("=")
        if key != "root" or not value:
            raise ConfigError(f"unknown word '{word}'; status takes root=FOLDER")
        root = value
    jobs_queue = queue()
    rows = [status(run, jobs_queue) for run in runs_below(Path(root))]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "stage", "step", "loss", "tokens/s", "left", "job"):
        right = name in ("step", "loss", "tokens/s", "left")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            escape(row.run),
            row.state,
            row.stage,
            f"{row.step}/{row.steps}" if row.steps else "",
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            "" if row.seconds_left is None else _duration(row.seconds_left),
            row.job,
        )
    Console().print(table)
    for row in rows:
        if row.note:
            print(f"{row.run}: {row.note}")
    return 0


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours >= 48:
        return f"{hours // 24}d{hours % 24:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{int(seconds % 60):02d}s"
