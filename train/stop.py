"""How a run is asked to stop. Loaded before torch, so that no signal finds a process without a handler."""

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Remembers that SIGTERM, SIGINT or SIGUSR1 came; the loop reads it once a step."""

    def __init__(self) -> None:
        self.received = False
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def _receive(self, _: int, __: FrameType | None) -> None:
        self.received = True
