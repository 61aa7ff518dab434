"""The jobs that `launch` started for a run: `jobs.json` in the run's folder, scripts and logs in `jobs/`."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from conf.run_folder import read_json, write_json

JOBS = "jobs.json"
REFUSED = "jobs/refused"  # why the last submission was refused; gone with the next job


@dataclass(frozen=True)
class Job:
    """A Slurm job or a local launcher process of a run.

    kind: "slurm", "local" or "hostfile". id: Slurm's, or the launcher's process id. stages: those it was started for,
    none for an evaluation.
    log: file with its output; exit: file that holds its exit code once it has ended; both relative to the run's folder.
    """

    kind: str
    id: str
    stages: list[str]
    host: str
    log: str
    exit: str
    started: float  # seconds since 1970

    @property
    def evaluates(self) -> bool:
        """Whether it is an evaluation: it waits for a stage, and hinders none."""
        return not self.stages

    def exit_code(self, run: Path) -> int | None:
        """Its exit code, None where it has not ended or was killed before it could write one."""
        path = run / self.exit
        text = path.read_text().strip() if path.is_file() else ""
        return int(text) if text.lstrip("-").isdigit() else None


def read_jobs(run: Path) -> list[Job]:
    """The jobs of a run, oldest first; none where the file is missing or damaged."""
    try:
        return [Job(**entry) for entry in read_json(run / JOBS)]
    except (OSError, ValueError, TypeError):
        return []


def add_job(run: Path, kind: str, id: str, stages: list[str], host: str, log: str, exit: str) -> None:
    """Append a job that was just started to `jobs.json`; what an earlier one left is removed."""
    for suffix in (".exit", ".cancel", ".tries", ".nodes"):  # a person who launches again begins to count anew
        (run / exit).with_suffix(suffix).unlink(missing_ok=True)
    (run / REFUSED).unlink(missing_ok=True)
    jobs = [*read_jobs(run), Job(kind, id, stages, host, log, exit, time.time())]
    write_json(run / JOBS, [asdict(job) for job in jobs])
