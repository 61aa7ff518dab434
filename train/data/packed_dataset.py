"""Packed samples of `context_length` tokens, and the shuffled order in which training reads them.

Packing as in JAXFORMER: documents, each followed by an eos, are concatenated and cut every `context_length` tokens.
Attention crosses document borders and no training token is padding.
"""

from pathlib import Path
from typing import Protocol

import numpy
from numpy.typing import NDArray

from conf.choices import IGNORE_INDEX
from train.data.infill import ends_document, labels_in_corpus, open_training_tokens
from train.data.permutation import Permutation

Sample = tuple[NDArray[numpy.integer], ...]  # inputs, labels and, with a document mask, positions
Numbers = NDArray[numpy.int64]
Pieces = tuple[Numbers, Numbers, Numbers]


class Samples(Protocol):
    """Samples by index."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """(inputs, labels[, positions]), `[context_length]` each."""


class CorpusSamples(Samples, Protocol):
    """The samples of one corpus."""

    @property
    def padding(self) -> float:
        """Share of all samples' tokens that is padding."""

    def pieces(self, first: int, last: int) -> Pieces:
        """Of samples [first, last): what each piece of the file in them is, its labels tokens (start, start + length].

        Returns the sample, start and length of each.
        """


class PackedDataset:
    """A corpus' tokens, read as samples of `context_length` tokens.

    Sample i has the inputs [i T, (i + 1) T) with T = `context_length`; its labels are the inputs shifted by one. Every
    token but the corpus' first, which is an eos, is a label exactly once. An incomplete last sample is dropped, or with
    `keep_last` padded with token 0 and the label `IGNORE_INDEX`.

    document_mask: samples have positions too, which say that documents do not see each other. A document begins with
    the eos before it, as a prompt does that holds nothing else, and where a sample cuts it.
    """

    def __init__(
        self, path: Path, dtype: str, context_length: int, keep_last: bool = False, document_mask: bool = False
    ) -> None:
        self._tokens = open_training_tokens(path, dtype)
        self._length = context_length
        self._keep_last = keep_last
        self._eos = int(self._tokens.read(0, 1)[0]) if document_mask else None

    def __len__(self) -> int:
        """Number of samples."""
        labels = len(self._tokens) - 1
        return -(-labels // self._length) if self._keep_last else labels // self._length

    @property
    def padding(self) -> float:
        """See `CorpusSamples`."""
        return max(0.0, 1 - (len(self._tokens) - 1) / (len(self) * self._length))

    def pieces(self, first: int, last: int) -> Pieces:
        """See `CorpusSamples`."""
        samples = numpy.arange(first, last)
        starts = samples * self._length
        return samples, *labels_in_corpus(
            self._tokens, starts, numpy.minimum(starts + self._length, len(self._tokens) - 1) - starts
        )

    def __getitem__(self, index: int) -> Sample:
        """(inputs, labels[, positions]) of one sample. Errors: `IndexError`; `DataError` where damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        start = index * self._length
        tokens = self._tokens.read(start, start + self._length + 1).astype(numpy.int64)
        inputs, labels = tokens[:-1], tokens[1:]
        if missing := self._length + 1 - len(tokens):
            inputs, labels = (
                numpy.pad(inputs, (0, missing)),
                numpy.pad(labels, (0, missing), constant_values=IGNORE_INDEX),
            )
        if self._eos is None:
            return inputs, labels
        begins = ends_document(self._tokens, self._eos, inputs, labels)
        begins[len(tokens) - 1 :] = False
        begins[len(tokens) - 1 :][:1] = True  # padding, where there is any
        return inputs, labels, positions_from(begins)


def positions_from(begins: NDArray[numpy.bool_]) -> NDArray[numpy.int32]:
    """The position of each token in its document, from where documents begin; the first token begins one."""
    places = numpy.arange(len(begins), dtype=numpy.int32)
    first: NDArray[numpy.int32] = numpy.maximum.accumulate(numpy.where(begins, places, 0))
    return places - first


class ShuffledOrder:
    """The sample that training reads at each position: one random permutation of the data set per epoch.

    A function of (seed, position) alone, so that a run resumed on any number of ranks reads the same samples.
    """

    def __init__(self, dataset_size: int, *seed: int) -> None:
        if dataset_size < 1:
            raise ValueError("a shuffled order needs at least one sample")
        self._dataset_size = dataset_size
        self._seed = seed
        self._epoch = -1
        self._permutation = Permutation(dataset_size)

    def __getitem__(self, position: int) -> int:
        """Index into the data set of the sample at `position`, counted from 0 over all epochs and ranks."""
        if position < 0:
            raise IndexError(f"position {position} is negative")
        epoch, offset = divmod(position, self._dataset_size)
        self._begin(epoch)
        return self._permutation[offset]

    def times_read(self, indices: Numbers, positions: int) -> Numbers:
        """How often each of the samples `indices` is among the first `positions`."""
        epochs, rest = divmod(positions, self._dataset_size)
        self._begin(epochs)
        return epochs + (self._permutation.places(indices) < rest)

    def _begin(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._permutation = Permutation(self._dataset_size, *self._seed, epoch)
            self._epoch = epoch
