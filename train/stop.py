"""Signals that stop a run. Imported before torch, so that a signal never finds a process without a handler."""

import os
import signal
from pathlib import Path
from types import FrameType

from conf.run_lock import OWNER, stop_file

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class StopSignal:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGHUP, or by a file of the launcher's; the loop reads it once per step."""

    def __init__(self) -> None:
        self.signalled = False
        self.file: Path | None = None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def watch(self, folder: Path) -> None:
        """Also stop where this process's launcher has made its `stop_file`: a signal does not cross hosts."""
        if OWNER in os.environ:
            self.file = stop_file(folder, os.environ[OWNER])

    @property
    def received(self) -> bool:
        """Whether this process was asked to stop, at any time since its launcher began."""
        return self.signalled or (self.file is not None and self.file.exists())

    def _receive(self, _: int, __: FrameType | None) -> None:
        self.signalled = True
