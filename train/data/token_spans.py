"""The tokens of a corpus where they lie: spans of the shards' token files, one after another, without a copy.

    NAME.spans     a `SPAN` for each run of neighbouring documents that are kept
    NAME.shards    a line for each shard: its folder, relative to the file's own

Few shards are open at a time, so that a corpus of any size is read in little memory.
"""

import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy
from numpy.typing import NDArray

from conf.errors import DataError
from train.data.token_file import TokenFile

SUFFIX = ".spans"
SHARD_TOKENS = "tokens.bin"  # in a shard's folder
# end: tokens of the corpus up to the end of the span; start: of its first token in the shard; crc32: of the others
SPAN = numpy.dtype([("end", "<u8"), ("start", "<u8"), ("shard", "<u4"), ("crc32", "<u4")])
CHECKED_BYTES = SPAN.itemsize - 4
OPEN_SHARDS = 128  # mapped at a time, by two file descriptors each


class Tokens(Protocol):
    """Token ids in a row, wherever they lie."""

    def __len__(self) -> int:
        """Number of tokens."""

    def read(self, start: int, stop: int) -> NDArray[numpy.integer]:
        """The ids of tokens [start, stop), fewer past the end. Errors: `DataError` where they are damaged."""


def open_tokens(path: Path, dtype: str) -> Tokens:
    """The tokens of a file of spans, or of a plain token file. Errors: `DataError` where it cannot be read."""
    return TokenSpans(path, dtype) if path.suffix == SUFFIX else TokenFile(path, dtype)


class TokenSpansWriter:
    """Writes the spans of one corpus. tokens: in them so far."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._spans, self._shards = path.open("wb"), path.with_suffix(".shards").open("w")
        self._listed = 0
        self.tokens = 0

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def write(self, shard: Path, starts: NDArray[Any], stops: NDArray[Any]) -> None:
        """Append tokens [start, stop) of the shard in folder `shard`, for each of `starts` and `stops`."""
        spans = numpy.zeros(len(starts), SPAN)
        spans["start"], spans["shard"] = starts, self._listed
        spans["end"] = self.tokens + numpy.cumsum(stops - starts)
        for span in spans:
            span["crc32"] = zlib.crc32(span.tobytes()[:CHECKED_BYTES])
        self._spans.write(spans.tobytes())
        self._shards.write(f"{os.path.relpath(shard, self._folder)}\n")
        self._listed += 1
        self.tokens += int((stops - starts).sum())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files."""
        self._spans.close()
        self._shards.close()


class TokenSpans:
    """The tokens of a file of spans; a shard is opened when it is first read."""

    def __init__(self, path: Path, dtype: str) -> None:
        """Errors: `DataError` where the spans or the list of shards cannot be read."""
        self._path, self._dtype = path, dtype
        self._open: OrderedDict[int, TokenFile] = OrderedDict()
        try:
            self._spans = numpy.asarray(numpy.memmap(path, SPAN, mode="r"))  # indexing a memmap itself is slow
            self._shards = shards_of(path)
        except (OSError, ValueError) as error:  # numpy maps no empty file, and none of another length
            raise DataError(f"{path} cannot be read ({error}); {_remedy(path)}") from None
        self._ends = self._spans["end"]
        self._tokens = self._span(len(self._spans) - 1)[0]

    def __len__(self) -> int:
        """Number of tokens."""
        return self._tokens

    def read(self, start: int, stop: int) -> NDArray[numpy.integer]:
        """The ids of tokens [start, stop), fewer past the end. Errors: `DataError` where something has changed."""
        pieces: list[NDArray[numpy.integer]] = []
        stop = min(stop, self._tokens)
        number = bisect_right(self._ends, start)
        begin = self._span(number - 1)[0] if number else 0
        while start < stop:
            end, in_shard, shard = self._span(number)
            offset = in_shard - begin
            if not begin <= start < end:
                raise DataError(f"{self._path} is damaged at span {number:,}; {_remedy(self._path)}")
            last = min(stop, end)
            piece = self._shard(shard).read(offset + start, offset + last)
            if len(piece) != last - start:
                raise DataError(f"{self._shards[shard]} is cut off; {_remedy(self._path)}")
            pieces.append(piece)
            start, begin, number = last, end, number + 1
        if len(pieces) == 1:
            return pieces[0]
        return numpy.concatenate(pieces) if pieces else numpy.empty(0, self._dtype)

    def _span(self, number: int) -> tuple[int, int, int]:
        """Where a span ends in the corpus, where it starts in its shard, and which shard that is."""
        span = self._spans[number]
        end, start, shard, crc32 = span.item()
        if zlib.crc32(span.tobytes()[:CHECKED_BYTES]) != crc32:
            raise DataError(f"{self._path} is damaged at span {number:,}; {_remedy(self._path)}")
        return end, start, shard

    def _shard(self, number: int) -> TokenFile:
        file = self._open.pop(number, None) or TokenFile(self._shards[number] / SHARD_TOKENS, self._dtype)
        self._open[number] = file
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return file


def shards_of(path: Path) -> list[Path]:
    """The folders of the shards that a file of spans refers to. Errors: `OSError`."""
    lines = path.with_suffix(".shards").read_text().splitlines()
    return [Path(os.path.normpath(path.parent / line)) for line in lines]


def _remedy(path: Path) -> str:
    return f"remove {path.parent.parent} and prepare again: nothing is tokenized again"
