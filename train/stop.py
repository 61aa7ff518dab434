"""How a run is asked to stop. Loaded before torch, so that no signal finds a process without a handler."""

import signal
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Remembers that SIGTERM, SIGINT or SIGUSR1 came, or that a file was made; the loop reads it once a step."""

    def __init__(self) -> None:
        self.signalled = False
        self.file: Path | None = None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def watch(self, file: Path) -> None:
        """Stop as well when `file` is made from now on: a launcher on another machine cannot send a signal."""
        file.unlink(missing_ok=True)
        self.file = file

    @property
    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signalled or (self.file is not None and self.file.exists())

    def _receive(self, _: int, __: FrameType | None) -> None:
        self.signalled = True
