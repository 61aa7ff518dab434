"""`python -m launch.host STOP GRACE_SECONDS PROCESSES COMMAND ...`: a host's part of a run, started over ssh.

Nothing tells a process that the ssh it came by has ended, and its ranks would train on unseen. The launch holds this
process's standard input open: its end is the launch's, however that ended. The ranks are then asked to save themselves,
or killed where the launch had asked them before (STOP, the file by which it does, is there). They are killed as well
where another host's ranks failed: they would wait for those, and the next try must not find them. What the ranks'
environment owes to their machine is found out here: the one that launches may have no GPU.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from conf.exit_codes import INTERRUPTED
from launch.local import machine_environment
from launch.processes import run

BETWEEN_SECONDS = 1.0  # two signals at once would be one
FAILED = 1  # exit code of a host whose ranks were killed because another's failed


def main(argv: list[str]) -> int:
    """Run the command of this host and return its exit code."""
    stop, grace_seconds, processes, command = Path(argv[0]), float(argv[1]), int(argv[2]), argv[3:]
    threading.Thread(target=_end_with_launch, args=(stop,), name="launch", daemon=True).start()
    failed, ended = failed_file(stop), threading.Event()
    threading.Thread(target=_end_with_others, args=(failed, grace_seconds, ended), name="others", daemon=True).start()
    variables = {**os.environ, **machine_environment(processes)}
    code = run(command, variables, grace_seconds, log=Path(os.devnull))
    if ended.is_set():
        return FAILED
    if code not in (0, INTERRUPTED):
        with contextlib.suppress(OSError):
            failed.touch()
    return code


def failed_file(stop: Path) -> Path:
    """The file by which a host whose ranks failed tells the others, beside the launch's stop file."""
    return stop.with_name(f"{stop.name}.failed")


def _end_with_others(failed: Path, grace_seconds: float, ended: threading.Event) -> None:
    while not failed.exists():
        time.sleep(BETWEEN_SECONDS)
    time.sleep(grace_seconds)  # most end by themselves, and say why
    ended.set()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(BETWEEN_SECONDS)


def _end_with_launch(stop: Path) -> None:
    while os.read(0, 4096):
        pass
    asked_before = stop.exists()
    os.kill(os.getpid(), signal.SIGTERM)
    if asked_before:
        time.sleep(BETWEEN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
