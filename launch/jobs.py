"""What `launch` leaves in a run's folder about the processes it started: `jobs.json`, and scripts and logs in `jobs/`.

One entry a job: {"kind", "id", "stages", "host", "started", "log", "exit"}. `log` is where its output goes, `exit` the
file that holds its exit code once it has ended; both are relative to the run's folder.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from conf.run_folder import write_whole

NAME = "jobs.json"


@dataclass(frozen=True)
class StartedJob:
    """One job of a run. id: Slurm's, or the launcher's process id. stages: those it was started for."""

    kind: str
    id: str
    stages: list[str]
    host: str
    log: str
    exit: str
    started: float  # seconds since 1970

    def exit_code(self, run: Path) -> int | None:
        """The code it ended with, None where it has not ended or was killed before it could say."""
        path = run / self.exit
        text = path.read_text().strip() if path.is_file() else ""
        return int(text) if text.lstrip("-").isdigit() else None


def read_jobs(run: Path) -> list[StartedJob]:
    """The jobs of a run, oldest first; none where the file is missing or half-written."""
    try:
        return [StartedJob(**entry) for entry in json.loads((run / NAME).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def add_job(run: Path, kind: str, id: str, stages: list[str], host: str, log: str, exit: str) -> None:
    """Write down a job that was just started; what an earlier one of the same name left as its exit code goes."""
    (run / exit).unlink(missing_ok=True)
    jobs = [*read_jobs(run), StartedJob(kind, id, stages, host, log, exit, time.time())]
    write_whole(run / NAME, json.dumps([asdict(job) for job in jobs], indent=2) + "\n")
