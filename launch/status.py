"""`python -m launch status`: the state of every run in a folder, from its records and Slurm's queue."""

import platform
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from conf.command_line import LOST_ANOTHER, Command
from conf.commands import Status as StatusCommand
from conf.commands import read_command
from conf.compose import load_settings
from conf.duration import format_duration
from conf.errors import ConfigError
from conf.exit_codes import INTERRUPTED, describe
from conf.run_folder import CONFIG, is_finished, is_run_folder, last_lines, newest_checkpoint, newest_speed, newest_step
from conf.run_lock import living_holder, seconds_until_free
from conf.terminal import table_console
from launch import slurm
from launch.jobs import REFUSED, Job, read_jobs

COMMAND = Command(
    program="python -m launch status",
    usage="[root=FOLDER]",
    summary="Prints a table of runs: state, stage, step, loss, tokens per second, time left, job.",
    examples=("python -m launch status", "python -m launch status root=runs/mine"),
    settings="status",
)

NOTE_LENGTH = 200  # characters of an error line that are shown
Queue = dict[str, tuple[str, str]]  # Slurm's job id -> (state, reason)


@dataclass(frozen=True)
class Status:
    """The state of one run.

    stage: the one in progress; step, steps: of that stage, recorded or saved. seconds_left: to the end of the last
    stage, at the current speed; None before that is known. note: why it waits, or how it ended.
    """

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
    if is_run_folder(root):
        return [root]
    found = sorted(path.parent for path in root.glob(f"*/{CONFIG}"))
    if not found:
        raise ConfigError(f"there is no run in {root}; say where with root=...")
    return found


def status(run: Path, jobs_queue: Queue) -> Status:
    """The state of `run`. A damaged file gives the state "unreadable" or is passed over; nothing is raised."""
    try:
        settings = load_settings(run / CONFIG)
    except ConfigError as error:
        return Status(run.name, "unreadable", note=str(error))
    stages, every = list(settings.stages), read_jobs(run)
    jobs = [job for job in every if not job.evaluates]
    beside = "; ".join(_evaluations(run, [job for job in every if job.evaluates], jobs_queue))
    finished = [name for name in stages if is_finished(run, name)]
    row = newest_step(run)
    stage = next((name for name in stages if name not in finished), stages[-1])
    current = row if row.get("stage") == stage else {}
    step, steps = current.get("step", 0), settings.stages[stage].steps
    saved = newest_checkpoint(run)
    if saved is not None and saved[0] == stage:  # between two records, where it was asked to stop
        step = max(step, saved[1])
    speed, left = newest_speed(run), None
    if speed:
        tokens = {
            name: s.steps * s.global_batch_size * settings.model.context_length for name, s in settings.stages.items()
        }
        remaining_tokens = sum(tokens[name] for name in stages if name not in finished)
        left = (remaining_tokens - tokens[stage] * step / max(steps, 1) if stage not in finished else 0) / speed
    alive = [(job, *queued) for job in jobs if (queued := job_state(run, job, jobs_queue))]
    if len(finished) == len(stages) and not alive:  # with one, it is being extended
        return Status(run.name, "finished", stage, steps, steps, row.get("loss"), speed, None, _id(jobs[-1:]), beside)
    if alive:
        job, state, reason = next((each for each in alive if each[1] == "running"), alive[0])
        note = "; ".join(filter(None, (reason if state != "running" and reason != "None" else "", beside)))
        return Status(run.name, state, stage, step, steps, current.get("loss"), speed, left, _id([job]), note)
    state, note = _ended(run, [job for job in jobs if stage in job.stages], bool(row))
    note = "; ".join(filter(None, (note, beside)))
    return Status(run.name, state, stage, step, steps, current.get("loss"), speed, None, _id(jobs[-1:]), note)


def queue_of(runs: Iterable[Path]) -> Queue:
    """Slurm's queue, where one of `runs` has a job in it; Slurm is not asked about other runs.

    Errors: `ConfigError` where it is needed and squeue fails.
    """
    return slurm.queue() if any(job.kind == "slurm" for run in runs for job in read_jobs(run)) else {}


def active_job(run: Path, jobs_queue: Queue) -> str | None:
    """The queued or running job of `run` that trains, for a message; None without one."""
    for job in read_jobs(run):
        state = None if job.evaluates else job_state(run, job, jobs_queue)
        if state:
            return f"{'job' if job.kind == 'slurm' else 'process'} {job.id} ({state[0]})"
    return None


def job_state(run: Path, job: Job, jobs_queue: Queue) -> tuple[str, str] | None:
    """(state, reason) of a job of `run` that is queued or running, None for one that has ended."""
    if job.kind == "slurm":
        return jobs_queue.get(job.id)
    if job.host != platform.node():  # its process cannot be seen, its signs of life can
        who = living_holder(run) or {}
        return (
            ("running", f"on {job.host}") if (who.get("host"), who.get("process")) == (job.host, int(job.id)) else None
        )
    if not psutil.pid_exists(int(job.id)):
        return None
    began = psutil.Process(int(job.id)).create_time()  # process ids are reused
    return ("running", "") if began <= job.started else None


def _evaluations(run: Path, jobs: list[Job], jobs_queue: Queue) -> Iterator[str]:
    """A phrase for each evaluation that is queued or running."""
    for job in jobs:
        if state := job_state(run, job, jobs_queue):
            yield f"{Path(job.log).stem.removesuffix(f'-{job.id}')} ({job.id}) is {state[0]}"


def _id(jobs: list[Job]) -> str:
    return jobs[0].id if jobs else ""


def _ended(run: Path, jobs: list[Job], began: bool) -> tuple[str, str]:
    """(state, note) of a run that has no active job and is not finished."""
    if (run / REFUSED).is_file():
        return "refused", (run / REFUSED).read_text(encoding="utf-8").strip()
    code, seconds = jobs[-1].exit_code(run) if jobs else None, seconds_until_free(run)
    again = "launch again to resume" + (f", in {seconds:.0f} s: its ranks may still be saving" if seconds else "")
    if code == INTERRUPTED:
        return "stopped", again
    if code:
        return "failed", f"exit {describe(code)}: {_last_error(run / jobs[-1].log)}"
    if jobs and code is None:
        return ("killed" if began else "cancelled"), f"{again}; {_last_error(run / jobs[-1].log)}"
    return "stopped" if began else "not started", again


def _last_error(log: Path) -> str:
    """The newest line of a log that tells of an error; of the rank that failed, not of one that it left waiting."""
    lines = [line.strip() for line in last_lines(log) if "error:" in line]
    causes = [line for line in lines if LOST_ANOTHER not in line] or lines
    return textwrap.shorten(causes[-1], NOTE_LENGTH, placeholder=" ...") if causes else f"see {log}"


def show(argv: list[str]) -> int:
    """`status [root=runs]`: print a table of the runs and, below it, the notes on single runs."""
    from rich.markup import escape
    from rich.table import Table

    for word in argv:
        key, _, value = word.partition("=")
        if key != "root" or not value:
            raise ConfigError(f"unknown word '{word}'; status takes root=FOLDER")
    root = read_command(StatusCommand, argv).root
    runs = runs_below(Path(root))
    jobs_queue = queue_of(runs)
    rows = [status(run, jobs_queue) for run in runs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "stage", "step", "loss", "tokens/s", "left", "job"):
        right = name in ("step", "loss", "tokens/s", "left")
        folds = name in ("run", "stage")  # numbers and ids are copied whole
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=not folds)
    for row in rows:
        table.add_row(
            escape(row.run),
            row.state,
            row.stage,
            f"{row.step}/{row.steps}" if row.steps else "",
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            "" if row.seconds_left is None else format_duration(row.seconds_left),
            row.job,
        )
    table_console().print(table)
    for row in rows:
        if row.note:
            print(f"{row.run}: {row.note}")
    return 0
