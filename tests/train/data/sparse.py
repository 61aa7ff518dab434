"""Token files too large to write: holes, but for what a test reads."""

import zlib
from pathlib import Path

import numpy

from train.data.token_file import CHUNK_BYTES


def make(path: Path, dtype: str, count: int) -> None:
    """A token file of `count` zeros whose checksums are still to be set."""
    size = count * numpy.dtype(dtype).itemsize
    for name, length in ((path, size), (path.with_name(f"{path.name}.crc32"), -(-size // CHUNK_BYTES) * 4)):
        with name.open("wb") as file:
            file.truncate(length)


def put(path: Path, dtype: str, start: int, values: list[int]) -> None:
    """Write `values` from token `start` on, and the checksums of the chunks they are in."""
    content, size = numpy.array(values, dtype).tobytes(), numpy.dtype(dtype).itemsize
    with path.open("r+b") as file, path.with_name(f"{path.name}.crc32").open("r+b") as checksums:
        file.seek(start * size)
        file.write(content)
        for chunk in range(start * size // CHUNK_BYTES, (start * size + len(content) - 1) // CHUNK_BYTES + 1):
            file.seek(chunk * CHUNK_BYTES)
            checksums.seek(chunk * 4)
            checksums.write(zlib.crc32(file.read(CHUNK_BYTES)).to_bytes(4, "little"))
