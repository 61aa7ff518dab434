"""Documents packed into samples whole: best-fit decreasing (Ding et al., arXiv 2404.10830), window by window.

A document longer than a sample is cut into whole samples and a rest; rests and shorter documents go, the longest of a
window first, where they leave the least room. What room is left is padding. The plan, made once for a corpus and a
length, lies beside its tokens; who reads it maps it into memory, and keeps nothing of it.

    pieces.bin     `[pieces, 2]`: first token and length of each piece, those of a sample together, in the file's order
    samples.bin    `[samples + 1]`: the first piece of each sample
"""

from collections.abc import Iterator
from pathlib import Path

import numpy

from conf.choices import IGNORE_INDEX
from conf.partial_folder import partial_folder
from train.data.infill import ends_document, labels_in_corpus, open_training_tokens
from train.data.loss_mask import ids_of, labels_of
from train.data.packed_dataset import Numbers, Pieces, Sample, positions_from
from train.data.token_file import TokenFile, TokenFileWriter
from train.data.token_spans import Tokens

WINDOW_TOKENS = 1 << 24  # whose documents are packed together: what planning holds in memory


def plan_folder(tokens: Path, context_length: int) -> Path:
    """Where the plan of the corpus `tokens` lies."""
    return tokens.with_name(f"{tokens.stem}.best_fit_{context_length}")


def write_plan(
    tokens: Path, dtype: str, context_length: int, conversations: bool = False, window_tokens: int = WINDOW_TOKENS
) -> None:
    """Plan the samples of a corpus, unless that is done. Errors: `DataError` where it is damaged.

    conversations: their pieces begin with their own first token and end before the label of their last one.
    """
    folder = plan_folder(tokens, context_length)
    if folder.is_dir():
        return
    with (
        partial_folder(folder, shared=True) as partial,
        TokenFileWriter(partial / "pieces.bin", "<u8") as pieces,
        TokenFileWriter(partial / "samples.bin", "<u8") as samples,
    ):
        for starts, ends in _documents(open_training_tokens(tokens, dtype), window_tokens):
            found, counts = _pack(starts + conversations, ends - conversations, context_length)
            firsts = pieces.tokens // 2 + numpy.cumsum(counts) - counts
            pieces.write(found.ravel())
            samples.write(firsts)
        samples.write([pieces.tokens // 2])


def _documents(tokens: Tokens, window_tokens: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Of each window's documents the first input, the eos before the document, and the end of the inputs."""
    eos, begun = int(tokens.read(0, 1)[0]), numpy.zeros(1, numpy.int64)
    for first in range(1, len(tokens), window_tokens):
        ids = numpy.append(tokens.read(first, first + window_tokens + 1), eos)[: window_tokens + 1]
        found = first + numpy.flatnonzero(ends_document(tokens, eos, ids[:-1], ids[1:]))
        borders = numpy.concatenate([begun, found])
        begun = borders[-1:]
        if len(found):
            yield borders[:-1], borders[1:]


def _pack(starts: Numbers, ends: Numbers, length: int) -> tuple[Numbers, Numbers]:
    """Pieces `[pieces, 2]`, sample after sample, and the number of pieces of each sample."""
    whole = (ends - starts) // length
    of_document = numpy.repeat(numpy.arange(len(starts)), whole)
    number = numpy.arange(len(of_document)) - numpy.repeat(numpy.cumsum(whole) - whole, whole)
    full = starts[of_document] + number * length
    rests = numpy.stack([starts + whole * length, (ends - starts) - whole * length], axis=1)
    rests = rests[rests[:, 1] > 0]
    bins = _best_fit(rests[:, 1], length)
    # by sample, and within a sample as in the file: the longest first would always see the least before it
    order = numpy.lexsort([rests[:, 0], bins])
    pieces = numpy.concatenate([numpy.stack([full, numpy.full_like(full, length)], axis=1), rests[order]])
    return pieces, numpy.concatenate([numpy.ones_like(full), numpy.bincount(bins).astype(numpy.int64)])


def _best_fit(lengths: Numbers, room: int) -> Numbers:
    """The bin of each piece, numbered in the order of their first pieces, the longest piece first."""
    bins = numpy.zeros(len(lengths), numpy.int64)
    count, by_room = 0, [[] for _ in range(room + 1)]  # type: int, list[list[int]]
    rooms = 0  # bit r: a bin with room r is open
    order = numpy.argsort(-lengths, kind="stable")
    for piece, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            least = length + (fitting & -fitting).bit_length() - 1
            chosen = by_room[least].pop()
            if not by_room[least]:
                rooms ^= 1 << least
        else:
            least, chosen, count = room, count, count + 1
        bins[piece] = chosen
        if least > length:
            by_room[least - length].append(chosen)
            rooms |= 1 << least - length
    return bins


class BestFitDataset:
    """A corpus' tokens, read as the samples of its plan.

    A document's inputs are the eos before it and its tokens but the last, its labels these shifted by one: every token
    of the corpus but the first is a label exactly once. Padding has token 0 and the label `IGNORE_INDEX`.
    document_mask: see `PackedDataset`. conversations: labels are what the assistant wrote, and a
    conversation's inputs are its tokens but the last, without the eos before it.
    """

    def __init__(
        self,
        path: Path,
        dtype: str,
        context_length: int,
        document_mask: bool = False,
        conversations: bool = False,
    ) -> None:
        folder = plan_folder(path, context_length)
        self._tokens = open_training_tokens(path, dtype)
        self._pieces, self._samples = TokenFile(folder / "pieces.bin", "<u8"), TokenFile(folder / "samples.bin", "<u8")
        self._length = context_length
        self._document_mask, self._conversations = document_mask, conversations

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples) - 1

    @property
    def padding(self) -> float:
        """See `CorpusSamples`."""
        labels = len(self._tokens) - 1
        if self._conversations:
            labels = int(self._pieces.read(0, len(self._pieces))[1::2].sum())
        return 1 - labels / (len(self) * self._length)

    def pieces(self, first: int, last: int) -> Pieces:
        """See `CorpusSamples`."""
        borders = self._samples.read(first, last + 1).astype(numpy.int64)
        found = self._pieces.read(2 * borders[0], 2 * borders[-1]).astype(numpy.int64).reshape(-1, 2)
        samples = numpy.repeat(numpy.arange(first, last), numpy.diff(borders))
        return samples, *labels_in_corpus(self._tokens, found[:, 0], found[:, 1])

    def __getitem__(self, index: int) -> Sample:
        """(inputs, labels[, positions]) of one sample. Errors: `IndexError`; `DataError` where damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        first, last = self._samples.read(index, index + 2).tolist()
        inputs = numpy.zeros(self._length, numpy.int64)
        labels = numpy.full(self._length, IGNORE_INDEX, numpy.int64)
        begins, at = numpy.zeros(self._length + 1, numpy.bool_), 0
        for start, length in self._pieces.read(2 * first, 2 * last).reshape(-1, 2).tolist():
            tokens = self._tokens.read(start, start + length + 1)
            inputs[at : at + length] = ids_of(tokens[:-1]) if self._conversations else tokens[:-1]
            labels[at : at + length] = labels_of(tokens[1:]) if self._conversations else tokens[1:]
            begins[at] = True
            at += length
        begins[at] = True  # of padding
        return (inputs, labels, positions_from(begins[:-1])) if self._document_mask else (inputs, labels)
