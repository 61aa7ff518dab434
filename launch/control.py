"""`python -m launch status|cancel|logs|sync`: look after runs that were started, from their folders."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conf.errors import ConfigError
from launch.jobs import StartedJob, read_jobs
from launch.slurm import queue
from launch.status import active_job, job_state, runs_below, show

FOLLOW_SECONDS = 0.5  # between looks at a log that is followed


def cancel(words: list[str]) -> int:
    """`cancel RUN...`: end the runs' jobs; what they have saved stays, and the same launch goes on from there."""
    runs, jobs_queue = _runs(words, "cancel"), queue()
    for run in runs:
        active = [job for job in read_jobs(run) if job_state(job, jobs_queue)]
        for job in active:
            if job.kind == "slurm":
                done = subprocess.run(["scancel", job.id], capture_output=True, text=True, check=False)
                if done.returncode:
                    raise ConfigError(f"scancel refused job {job.id}: {done.stderr.strip()}")
            else:
                os.kill(int(job.id), signal.SIGTERM)
            print(f"{run}: {'job' if job.kind == 'slurm' else 'process'} {job.id} is asked to stop")
        if not active:
            print(f"{run}: nothing is under way")
    return 0


def logs(words: list[str]) -> int:
    """`logs [-f] RUN`: print the newest log; -f goes on until the run's jobs have ended."""
    follow = "-f" in words
    runs = _runs([word for word in words if word != "-f"], "logs")
    if len(runs) > 1:
        raise ConfigError("logs shows one run at a time")
    run = runs[0]
    shown: tuple[Path, int] | None = None
    while True:
        busy = active_job(run, queue()) if follow else None
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


def _newest_with_log(run: Path) -> StartedJob | None:
    """The job whose log was written last."""
    found = [job for job in read_jobs(run) if (run / job.log).is_file()]
    return max(found, key=lambda job: (run / job.log).stat().st_mtime, default=None)


def sync(words: list[str]) -> int:
    """`sync [RUN...]`: upload what W&B kept offline, oldest first, so that a resumed stage is one curve there."""
    folders = [run / "wandb" for run in (_runs(words, "sync") if words else runs_below(Path("runs")))]
    offline = sorted(path for folder in folders for path in folder.glob("offline-run-*") if not _is_synced(path))
    if not offline:
        print("everything is synchronised")
        return 0
    command = [sys.executable, "-m", "wandb", "sync", *map(str, offline)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=False)  # its exit code is 0 whatever became of a single one
    left = [path for path in offline if not _is_synced(path)]
    if left:
        raise ConfigError(
            f"{len(left)} of {len(offline)} were not uploaded, as wandb says above; the first is {left[0]}"
        )
    print(f"{len(offline)} uploaded")
    return 0


def _is_synced(path: Path) -> bool:
    return any(path.glob("*.wandb.synced"))


def _runs(words: list[str], command: str) -> list[Path]:
    """The runs that `words` name. Errors: `ConfigError` for one that is none."""
    if not words:
        raise ConfigError(f"say which run: python -m launch {command} runs/NAME")
    for word in words:
        if not (Path(word) / "config.yaml").is_file():
            raise ConfigError(f"{word} is not the folder of a run; `python -m launch status` lists those there are")
    return [Path(word) for word in words]


COMMANDS: dict[str, Callable[[list[str]], int]] = {"status": show, "cancel": cancel, "logs": logs, "sync": sync}
