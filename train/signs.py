"""Signs of life between ranks: a file of each that its watchdog touches, which a process that is stopped cannot.

They say which rank is dead before there is anything that the others could wait for it in: while torch is loaded,
engines are built and kernels compiled, none of which has a usual time.
"""

import os
import time
from pathlib import Path

from conf.errors import node_name


class Signs:
    """The signs of `size` ranks in the folder of their reports, of which this process gives that of `rank`.

    What is older than this process by more than `earlier` seconds, or than its last `forget`, is an earlier try's or of
    a pause, and counts for none; a launcher removes what its last try left.
    """

    def __init__(self, folder: Path, rank: int, size: int, earlier: float) -> None:
        self.folder, self.rank, self.size = folder, rank, size
        self.own = self._file(rank)
        self.own.write_text(node_name())
        self.since = self._give() - earlier

    def forget(self) -> None:
        """Only signs from now on count: this process has just been woken, and others may be about to be."""
        self.since = self._give()

    def lack(self, seconds: float) -> bool:
        """Give a sign; whether a rank has given none for `seconds`.

        The first and the last rank look at all, so that one of a dead node still does; the others whether one of these
        has written its report.
        """
        watchers = {0, self.size - 1}
        if self.rank in watchers:
            return self.silence() > seconds
        self._give()
        return any(self._changed(self.folder / f"rank_{rank}.txt") for rank in watchers)

    def silence(self) -> float:
        """Seconds since the last sign of the rank that is silent for longest."""
        now = self._give()
        return max((now - last for rank in range(self.size) if (last := self._changed(self._file(rank)))), default=0.0)

    def nodes(self) -> list[str]:
        """The node of each rank that has come, by rank; "" for one that has not."""
        files = [self._file(rank) for rank in range(self.size)]
        return [file.read_text() if self._changed(file) else "" for file in files]

    def end(self) -> None:
        """Nobody is to look for this rank's signs any more."""
        self.own.unlink(missing_ok=True)

    def _give(self) -> float:
        try:
            os.utime(self.own)
            return self.own.stat().st_mtime
        except OSError:  # a disk that fails is named by who has something to write
            return time.time()

    def _changed(self, file: Path) -> float | None:
        """When a file changed, by the file system's clock; None where it is missing or older than what counts."""
        try:
            with file.open() as opened:  # a network file system looks anew as a file is opened
                changed = os.fstat(opened.fileno()).st_mtime
        except OSError:
            return None
        return changed if changed >= self.since else None

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}.alive"
