"""`python -m launch cancel|logs|sync`: act on runs that were started, by their folders."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from conf.command_line import Command
from conf.errors import ConfigError
from conf.run_folder import WANDB_UNSENT, is_run_folder
from conf.run_lock import living_holder, stop_file
from launch.jobs import JOBS, Job, read_jobs
from launch.status import job_state, queue_of, runs_below

CANCEL = Command(
    program="python -m launch cancel",
    usage="RUN [RUN ...]",
    summary="Stops the jobs of runs. They save a checkpoint first; the launch that started them resumes them.",
    examples=("python -m launch cancel runs/mine",),
)
LOGS = Command(
    program="python -m launch logs",
    usage="[-f] RUN",
    summary="Prints the newest log of a run.",
    examples=("python -m launch logs -f runs/mine",),
    flags={"-f": "keep printing until the run's jobs have ended"},
)
SYNC = Command(
    program="python -m launch sync",
    usage="[RUN ...]",
    summary="Uploads what W&B recorded offline, of every run in runs/ where none is named.",
    examples=("python -m launch sync", "python -m launch sync runs/mine"),
)
SILENT = 10  # times in a row that Slurm does not answer before a log is followed no longer
FOLLOW_SECONDS = 0.5  # between two reads of a log that is followed


def cancel(argv: list[str]) -> int:
    """`cancel RUN...`: stop the runs' jobs. They save a checkpoint first; launching again resumes from it."""
    runs = _runs(argv, "cancel")
    jobs_queue = queue_of(runs)
    for run in runs:
        active = [job for job in read_jobs(run) if job_state(run, job, jobs_queue)]
        for job in active:
            if job.kind == "slurm":
                running = jobs_queue[job.id][0] == "running"
                if running:  # it saves itself, and its script, which reads this file, does not requeue it
                    (run / job.exit).with_suffix(".cancel").touch()
                words = ["scancel", *(["--signal=USR1"] if running else []), job.id]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise ConfigError(f"scancel refused job {job.id}: {done.stderr.strip()}")
            elif job.host == platform.node():
                asked = (run / job.exit).with_suffix(".cancel")
                if asked.exists():  # a second signal would kill it while it saves
                    print(f"{run}: process {job.id} was asked to stop before, and ends when it has saved")
                    continue
                asked.touch()
                os.kill(int(job.id), signal.SIGTERM)
            else:  # a signal does not cross hosts, a file does
                stop_file(run, (living_holder(run) or {}).get("owner", "")).touch()
            print(f"{run}: {'job' if job.kind == 'slurm' else 'process'} {job.id} is asked to stop")
        if not active:
            print(f"{run}: nothing is under way")
    return 0


def logs(argv: list[str]) -> int:
    """`logs [-f] RUN`: print the newest log; with -f, keep printing until the run's jobs have ended."""
    flags, argv = LOGS.split_flags(argv)
    follow = "-f" in flags
    runs = _runs(argv, "logs")
    if len(runs) > 1:
        raise ConfigError("logs shows one run at a time")
    run = runs[0]
    shown: tuple[Path, int] | None = None
    silent = 0
    while True:
        busy = False
        if follow:
            try:
                alive = queue_of([run])
                busy = any(job_state(run, job, alive) for job in read_jobs(run))
                silent = 0
            except ConfigError:  # Slurm does not answer now; what is followed may well go on
                silent += 1
                busy = silent < SILENT
        job = _newest_with_log(run)
        if job is None and not busy:
            raise ConfigError(f"{run} has no log yet")
        if job is not None:
            path = run / job.log
            begin = shown[1] if shown and shown[0] == path else 0
            with path.open("rb") as file:
                file.seek(begin)
                sys.stdout.buffer.write(file.read())
                sys.stdout.flush()
                shown = path, file.tell()
        if not busy:
            return 0
        time.sleep(FOLLOW_SECONDS)


def _newest_with_log(run: Path) -> Job | None:
    """The job whose log was written last."""
    found = [job for job in read_jobs(run) if (run / job.log).is_file()]
    return max(found, key=lambda job: (run / job.log).stat().st_mtime, default=None)


def sync(argv: list[str]) -> int:
    """`sync [RUN...]`: upload offline W&B runs, oldest first, so that a resumed stage is one curve there.

    An online run whose server was lost (`WANDB_UNSENT`) is uploaded again as well.
    """
    folders = [run / "wandb" for run in (_runs(argv, "sync") if argv else runs_below(Path("runs")))]
    found = [path for folder in folders for path in folder.glob("*run-*") if _is_kept_here(path)]
    offline = sorted(
        (path for path in found if not _is_synced(path)), key=lambda path: path.name.removeprefix("offline-")
    )
    if not offline:
        print("everything is synchronised")
        return 0
    command = [sys.executable, "-m", "wandb", "sync", "--no-skip-online", *map(str, offline)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=False)  # its exit code is 0 whatever became of a single one
    left = [path for path in offline if not _is_synced(path)]
    if left:
        raise ConfigError(
            f"{len(left)} of {len(offline)} were not uploaded, as wandb says above; the first is {left[0]}"
        )
    print(f"{len(offline)} uploaded")
    return 0


def _is_kept_here(path: Path) -> bool:
    """Whether `path` has records that no server was given; where W&B did not start, it has left an empty folder."""
    unsent = path.name.startswith("offline-run-") or (path / WANDB_UNSENT).is_file()
    return unsent and any(path.glob("*.wandb"))


def _is_synced(path: Path) -> bool:
    return any(path.glob("*.wandb.synced"))


def _runs(argv: list[str], command: str) -> list[Path]:
    """The run folders that `argv` names. Errors: `ConfigError` for one that is not a run."""
    if not argv:
        raise ConfigError(f"say which run: python -m launch {command} runs/NAME")
    for word in argv:
        if not (is_run_folder(Path(word)) or (Path(word) / JOBS).is_file()):  # of an evaluation of other weights
            raise ConfigError(f"{word} is not the folder of a run; `python -m launch status` lists those there are")
    return [Path(word) for word in argv]
