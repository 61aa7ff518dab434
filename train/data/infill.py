"""The infilling objective: a share of the documents in CodeGen2's form (arXiv 2305.02309), a span taken out of each.

    prefix <mask_1> suffix <eos> <sep> <mask_1> span <eom> <eos>

The corpus' tokens stay where they are. Which documents, and which span of each, is a function of the seed and the
document's own tokens, so that every layout, process and resumed run reads the same. It is drawn once, into a plan
beside the tokens; the form is made when it is read. A document longer than a sample is cut into parts that fit one,
each with its own span: a span that is far from its place teaches nothing (Bavarian et al., arXiv 2207.14255).

    NAME_HASH.infill/parts.bin     `[parts, 3]`: of each part of the corpus, where it ends in this form, where it ends
                                   in the corpus, and its draw; 0: neighbours that are read as they are
    NAME_HASH.infill/infill.json   `Form`

Length and place of a span: the length is uniform up to a share of its document, the place among those that there are
(the paper masks spans for a ratio that it draws, and does not say from which distribution). With data.infill_unit=line
it grows to the line breaks around it: of the two ends of a line, neither is in doubt.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from conf.choices import INFILL_TOKENS, InfillUnit, Objective
from conf.errors import ConfigError, DataError
from conf.partial_folder import partial_folder
from conf.schema import Settings
from model.tokenizer import Tokenizer
from model.tokenizer.codegen2 import INFILLING
from train.data.token_file import TokenFile, TokenFileWriter
from train.data.token_spans import Tokens, open_tokens

FORMAT = 1  # increase when the same settings give another form
SUFFIX = ".infill"
KEYED_TOKENS = 1 << 12  # of a document, that its draw depends on, with its length
WINDOW_TOKENS = 1 << 20  # that planning reads at a time
LARGEST = 2**64
Ids = NDArray[numpy.integer]
Numbers = NDArray[numpy.int64]


@dataclass(frozen=True)
class Form:
    """Ids of the tokens that the form adds; the most of a part that its span takes; ids of the tokens that begin with a
    line break, where spans are whole lines."""

    eos: int
    mask: int
    sep: int
    eom: int
    span: float
    breaks: list[int]


def training_tokens(tokens: Path, settings: Settings) -> Path:
    """What training reads of the corpus `tokens`: itself, or its form for data.objective=infill."""
    data = settings.data
    if data.objective is not Objective.infill:
        return tokens
    spans = [data.infill_fraction, data.infill_span, data.infill_unit.value]
    what = [FORMAT, settings.run.seed, *spans, settings.model.context_length]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
    return tokens.with_name(f"{tokens.stem}_{digest}{SUFFIX}")


def require_infilling(tokenizer: Tokenizer) -> None:
    """Errors: `ConfigError` for a tokenizer without the tokens that data.objective=infill needs."""
    if missing := [text for text in INFILLING if text not in tokenizer.special_tokens]:
        raise ConfigError(
            f"data.objective=infill needs {', '.join(missing)}, which the tokenizer of this data does not have; use "
            f"data.tokenizer.kind=codegen2 and its path, add them with 'data.tokenizer.special_tokens="
            f"{json.dumps(missing, separators=(',', ':'))}', or, without a parent, have one trained with "
            "data.tokenizer.path=null"
        )


def write_infill(tokens: Path, dtype: str, settings: Settings, tokenizer: Tokenizer) -> None:
    """Plan the form of the corpus `tokens` for data.objective=infill, unless that is done.

    Errors: `ConfigError` for a tokenizer without the tokens that it needs, `DataError` for damaged tokens.
    """
    folder = training_tokens(tokens, settings)
    if folder.is_dir():
        return
    require_infilling(tokenizer)
    breaks: list[int] = []
    if settings.data.infill_unit is InfillUnit.line:
        breaks = [one for one in range(tokenizer.vocab_size) if tokenizer.token_bytes(one).startswith(b"\n")]
    mask, sep, eom = (tokenizer.special_tokens[text] for text in INFILLING)
    form = Form(tokenizer.eos, mask, sep, eom, settings.data.infill_span, breaks)
    most = settings.model.context_length - INFILL_TOKENS
    with partial_folder(folder, shared=True) as partial, TokenFileWriter(partial / "parts.bin", "<u8") as parts:
        (partial / "infill.json").write_text(json.dumps(asdict(form)) + "\n")
        for rows in _plan(open_tokens(tokens, dtype), form.eos, settings, most):
            parts.write(rows.ravel())


def _plan(tokens: Tokens, eos: int, settings: Settings, most: int) -> Iterator[NDArray[numpy.uint64]]:
    """Rows of parts.bin, some at a time. most: tokens of a part that is in the form."""
    seed, fraction = settings.run.seed, settings.data.infill_fraction
    end = source = 0  # of the parts so far, in the form and in the corpus
    rows: list[tuple[int, int, int]] = []
    for first, last in _documents(tokens, eos):
        key = _digest(seed, tokens.read(first, min(last, first + KEYED_TOKENS)), last - first)
        if first == last or int.from_bytes(key[:8], "big") >= fraction * LARGEST:
            continue
        if source < first:
            end, source = end + first - source, first
            rows.append((end, source, 0))
        count = -(-(last - first) // most)
        for part in range(count):
            stop = first + (last - first) * (part + 1) // count
            end += stop - source + INFILL_TOKENS
            source = stop if part + 1 < count else last + 1
            rows.append((end, source, _draw(key, part)))
        if len(rows) >= WINDOW_TOKENS:
            yield numpy.array(rows, numpy.uint64)
            rows = []
    if source < len(tokens):
        rows.append((end + len(tokens) - source, len(tokens), 0))
    yield numpy.array(rows, numpy.uint64).reshape(-1, 3)


def _documents(tokens: Tokens, eos: int) -> Iterator[tuple[int, int]]:
    """First token and the eos of each document; the corpus begins with an eos."""
    first = 1
    for start in range(1, len(tokens), WINDOW_TOKENS):
        for end in (start + numpy.flatnonzero(tokens.read(start, start + WINDOW_TOKENS) == eos)).tolist():
            yield first, end
            first = end + 1


def _digest(seed: int, ids: Ids, length: int) -> bytes:
    """What a document's draws are made from, whatever type its ids are stored in."""
    return hashlib.blake2b(f"{seed} {length} ".encode() + ids.astype("<u4").tobytes(), digest_size=32).digest()


def _draw(key: bytes, part: int) -> int:
    """Of one part, never 0."""
    return int.from_bytes(hashlib.blake2b(key + part.to_bytes(8, "big"), digest_size=8).digest(), "big") | 1


def span_of(draw: int, length: int, most: float) -> tuple[int, int]:
    """First token and end of the span of a part of `length` tokens. most: share of them that it takes at most."""
    both = hashlib.blake2b(draw.to_bytes(8, "big"), digest_size=16).digest()
    for_size, for_place = int.from_bytes(both[:8], "big"), int.from_bytes(both[8:], "big")
    size = 1 + for_size * max(1, int(length * most)) // LARGEST
    first = for_place * (length - size + 1) // LARGEST
    return first, first + size


def grown(span: tuple[int, int], borders: NDArray[numpy.intp], length: int) -> tuple[int, int]:
    """`span` of a part of `length` tokens, grown to `borders`, the line breaks in the part, or to an end of it."""
    places = numpy.concatenate([[0], borders, [length]])
    before, after = numpy.searchsorted(places, span[0], "right") - 1, numpy.searchsorted(places, span[1])
    return int(places[before]), int(places[after])


class InfillTokens:
    """The tokens of a corpus in the form, wherever its own lie."""

    def __init__(self, path: Path, dtype: str) -> None:
        """Errors: `DataError` where the plan or the corpus cannot be read."""
        self._source, self._path, self._dtype = open_tokens(_corpus_of(path), dtype), path, numpy.dtype(dtype)
        self._parts = TokenFile(path / "parts.bin", "<u8")
        try:
            self.form = Form(**json.loads((path / "infill.json").read_text()))
            rows = numpy.asarray(numpy.memmap(path / "parts.bin", "<u8", mode="r")).reshape(-1, 3)
            self._is_break = numpy.zeros(max(self.form.breaks, default=0) + 2, numpy.bool_)
            self._is_break[self.form.breaks] = True  # the last is that of every id above them
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error}); remove it and prepare again") from None
        self._ends, self._tokens = rows[:, 0], self._part(len(rows) - 1)[2]

    def __len__(self) -> int:
        """Number of tokens."""
        return self._tokens

    def read(self, start: int, stop: int) -> Ids:
        """The ids of tokens [start, stop), fewer past the end. Errors: `DataError` where they are damaged."""
        pieces: list[Ids] = []
        stop = min(stop, self._tokens)
        number = bisect_right(self._ends, start)
        while start < stop:
            begin, source_begin, end, source_end, draw = self._part(number)
            if not begin <= start < end:
                raise DataError(f"{self._path} is damaged at part {number:,}; remove it and prepare again")
            last = min(stop, end)
            if draw and start == end - 1:  # the eos before a document is often all that is read of the one before it
                pieces.append(numpy.array([self.form.eos], self._dtype))
            elif draw:
                pieces.append(self._masked(source_begin, source_end, draw)[start - begin : last - begin])
            else:
                offset = source_begin - begin
                pieces.append(self._source.read(offset + start, offset + last))
            start, number = last, number + 1
        return numpy.concatenate(pieces) if pieces else self._source.read(0, 0)

    def in_corpus(self, starts: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
        """See `labels_in_corpus`."""
        rows = self._parts.read(0, len(self._parts)).astype(numpy.int64).reshape(-1, 3)
        before = numpy.concatenate([numpy.zeros((1, 2), numpy.int64), rows[:, :2]])  # ends before each part

        def corpus(at: Numbers) -> Numbers:  # tokens of the corpus among the first `at` of the form
            part = numpy.searchsorted(rows[:, 0], at)
            found: Numbers = numpy.minimum(before[part, 1] + at - before[part, 0], rows[part, 1])
            return found

        first, last = corpus(starts + 1), corpus(starts + lengths + 1)
        return first - 1, last - first

    def _part(self, number: int) -> tuple[int, int, int, int, int]:
        """Where a part begins in the form and in the corpus, where it ends in both, and its draw."""
        before = self._parts.read(3 * number - 3, 3 * number - 1).tolist() if number else (0, 0)
        return *before, *self._parts.read(3 * number, 3 * number + 3).tolist()

    def _masked(self, start: int, stop: int, draw: int) -> Ids:
        """A part in the form."""
        ids, form = self._source.read(start, stop), self.form
        ids = ids[:-1] if ids[-1] == form.eos else ids
        first, end = span_of(draw, len(ids), form.span)
        if form.breaks:
            first, end = grown((first, end), numpy.flatnonzero(self._is_break.take(ids, mode="clip")), len(ids))
        marks = numpy.array([form.mask, form.eos, form.sep, form.mask, form.eom, form.eos], ids.dtype)
        return numpy.concatenate([ids[:first], marks[:1], ids[end:], marks[1:4], ids[first:end], marks[4:]])


def open_training_tokens(path: Path, dtype: str) -> Tokens:
    """The tokens that training reads. Errors: `DataError` where they cannot be read."""
    return InfillTokens(path, dtype) if path.suffix == SUFFIX else open_tokens(path, dtype)


def ends_document(tokens: Tokens, eos: int, ids: Ids, following: Ids) -> NDArray[numpy.bool_]:
    """Which of `ids`, each with the token after it, are the end of a document: every eos that no <sep> follows."""
    ends: NDArray[numpy.bool_] = ids == eos
    return ends & (following != tokens.form.sep) if isinstance(tokens, InfillTokens) else ends


def labels_in_corpus(tokens: Tokens, starts: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
    """The labels (start, start + length] as those of the corpus' own tokens; what the form adds counts for none."""
    return tokens.in_corpus(starts, lengths) if isinstance(tokens, InfillTokens) else (starts, lengths)


def _corpus_of(path: Path) -> Path:
    name = path.stem.rpartition("_")[0]
    return next(one for one in (path.with_name(f"{name}.spans"), path.with_name(f"{name}.bin")) if one.is_file())
