"""Signals that stop a run. Imported before torch, so that a signal never finds a process without a handler."""

import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Set by SIGTERM, SIGINT or SIGUSR1, or by a file that appears; the loop reads it once per step."""

    def __init__(self) -> None:
        self.signalled = False
        self.file: Path | None = None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def watch(self, file: Path) -> None:
        """Also stop when `file` appears from now on: a launcher on another machine cannot send a signal."""
        file.unlink(missing_ok=True)
        self.file = file

    @property
    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signalled or (self.file is not None and self.file.exists())

    def _receive(self, _: int, __: FrameType | None) -> None:
        self.signalled = True
