"""The language of each training document, beside a corpus' tokens: by runs of neighbours that have the same.

NAME.language_ends     tokens of the corpus' documents up to the end of each run, the eos of each included
NAME.language_codes    the language of each run, an index into `CorpusFiles.languages`
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy
from numpy.typing import NDArray

from train.data.packed_dataset import Numbers, Pieces
from train.data.token_file import TokenFile, TokenFileWriter

NONE = "none"  # of text that is in no programming language


class LanguageWriter:
    """Writes the runs of one corpus. tokens: language -> of its documents so far, in the order of the codes."""

    def __init__(self, corpus: Path) -> None:
        self._ends, self._codes = (TokenFileWriter(path, dtype) for path, dtype in _files(corpus))
        self.tokens: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def write(self, names: Sequence[str], codes: NDArray[Any], tokens: NDArray[Any]) -> None:
        """Append documents: `codes` are indices into `names`, `tokens` their lengths."""
        if not len(codes):
            return
        before = sum(self.tokens.values())
        own = numpy.zeros(len(names), numpy.int64)
        for code in numpy.unique(codes).tolist():
            name = names[code] or NONE
            own[code] = list(self.tokens).index(name) if name in self.tokens else len(self.tokens)
            self.tokens[name] = self.tokens.get(name, 0) + int(tokens[codes == code].sum())
        last = numpy.append(numpy.flatnonzero(numpy.diff(codes.astype(numpy.int64))), len(codes) - 1)
        self._ends.write((before + numpy.cumsum(tokens))[last])
        self._codes.write(own[codes[last]])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files."""
        self._ends.__exit__(kind, error, trace)
        self._codes.__exit__(kind, error, trace)


class Languages:
    """The runs of one corpus, mapped into memory. Errors: `DataError` where they are damaged."""

    def __init__(self, corpus: Path) -> None:
        files = (TokenFile(path, dtype) for path, dtype in _files(corpus))
        self._ends, self._codes = (file.read(0, len(file)) for file in files)

    def count(self, pieces: Pieces, times: Numbers, languages: int) -> Numbers:
        """Tokens of each of the `languages` in pieces whose samples, numbered from 0 here, are read `times` each."""
        samples, starts, lengths = pieces
        first = numpy.searchsorted(self._ends, starts + 1)
        runs = numpy.searchsorted(self._ends, starts + lengths) - first + 1  # that a piece reaches into
        piece = numpy.repeat(numpy.arange(len(starts)), runs)
        run = numpy.repeat(first, runs) + numpy.arange(len(piece)) - numpy.repeat(numpy.cumsum(runs) - runs, runs)
        begins = numpy.where(run > 0, self._ends[run - 1], 0)
        inside = numpy.minimum(self._ends[run], (starts + lengths)[piece]) - numpy.maximum(begins, starts[piece])
        counted: Numbers = inside * times[samples[piece]]  # bincount adds them in fp64, exact below 2^53
        return numpy.bincount(self._codes[run], counted, languages).astype(numpy.int64)


def _files(corpus: Path) -> list[tuple[Path, str]]:
    return [(corpus.with_suffix(".language_ends"), "<i8"), (corpus.with_suffix(".language_codes"), "<u2")]
