"""Token files: ids one after another, little-endian, and beside them a CRC-32 of every 64 KiB, checked when read."""

import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy
from numpy.typing import NDArray

from conf.errors import DataError

CHUNK_BYTES = 1 << 16


class TokenFileWriter:
    """Writes one token file and its checksums. tokens: number written so far."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._dtype = numpy.dtype(dtype)
        self._file, self._checksums = path.open("wb"), _checksum_file(path).open("wb")
        self._chunk = bytearray()
        self.tokens = 0

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def write(self, ids: NDArray[numpy.integer] | list[int]) -> None:
        """Append the ids of a document, or of several."""
        content = numpy.asarray(ids, dtype=self._dtype).tobytes()
        self._file.write(content)
        self.tokens += len(content) // self._dtype.itemsize
        self._chunk += content
        whole = len(self._chunk) // CHUNK_BYTES * CHUNK_BYTES
        for start in range(0, whole, CHUNK_BYTES):
            self._checksum(self._chunk[start : start + CHUNK_BYTES])
        del self._chunk[:whole]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files, the last checksum written."""
        if self._chunk and error is None:
            self._checksum(self._chunk)
        self._file.close()
        self._checksums.close()

    def _checksum(self, chunk: bytearray) -> None:
        self._checksums.write(zlib.crc32(chunk).to_bytes(4, "little"))


class TokenFile:
    """A token file, mapped into memory; `read` checks each chunk when it is first read.

    Memory: a bit a chunk, 4 MB for a trillion ids of two bytes.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        """Errors: `DataError` where the file or its checksums are not there or not of the same length."""
        self._path = path
        try:
            self._bytes = numpy.asarray(numpy.memmap(path, numpy.uint8, mode="r"))  # indexing a memmap itself is slow
            self._checksums = numpy.asarray(numpy.memmap(_checksum_file(path), "<u4", mode="r"))
        except (OSError, ValueError) as error:  # numpy maps no empty file
            raise DataError(f"{path} cannot be read ({error}); {_remedy(path)}") from None
        self._dtype = numpy.dtype(dtype)
        if len(self._checksums) != -(-len(self._bytes) // CHUNK_BYTES) or len(self._bytes) % self._dtype.itemsize:
            raise DataError(f"{path} is cut off; {_remedy(path)}")
        self._checked = bytearray(-(-len(self._checksums) // 8))

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self._bytes) // self._dtype.itemsize

    def read(self, start: int, stop: int) -> NDArray[numpy.integer]:
        """The ids of tokens [start, stop), fewer past the end. Errors: `DataError` where their bytes have changed."""
        size = self._dtype.itemsize
        begin, end = start * size, min(stop * size, len(self._bytes))
        for index in range(begin // CHUNK_BYTES, -(-end // CHUNK_BYTES)):
            if not self._checked[index >> 3] >> (index & 7) & 1:
                self._check(index)
        return self._bytes[begin : max(begin, end)].view(self._dtype)

    def _check(self, index: int) -> None:
        at = index * CHUNK_BYTES
        if zlib.crc32(self._bytes[at : at + CHUNK_BYTES].data) != self._checksums[index]:
            raise DataError(f"{self._path} is damaged in the 64 KiB at byte {at:,}; {_remedy(self._path)}")
        self._checked[index >> 3] |= 1 << (index & 7)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc32")


def _remedy(path: Path) -> str:
    return f"remove {path.parent} and prepare again: only what is damaged is done again"
