"""`python -m launch.host STOP GRACE_SECONDS COMMAND ...`: a host's part of a run, started over ssh.

Nothing tells a process that the ssh it came by has ended, and its ranks would train on unseen. The launch holds this
process's standard input open: its end is the launch's, however that ended. The ranks are then asked to save themselves,
or killed where the launch had asked them before (STOP, the file by which it does, is there).
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from launch.processes import run

BETWEEN_SECONDS = 1.0  # two signals at once would be one


def main(argv: list[str]) -> int:
    """Run the command of this host and return its exit code."""
    stop, grace_seconds, command = Path(argv[0]), float(argv[1]), argv[2:]
    threading.Thread(target=_end_with_launch, args=(stop,), name="launch", daemon=True).start()
    return run(command, dict(os.environ), grace_seconds, log=Path(os.devnull))


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
