"""Prepared tokens as blocks of the context's length, and the order in which training reads them.

JAXFORMER's packing: documents with an eos after each stand end to end and are cut every `context_length` tokens, so
attention crosses document borders and no token is padding.
"""

from pathlib import Path

import numpy
from numpy.typing import NDArray

from parallel.cross_entropy import IGNORE

Sample = tuple[NDArray[numpy.int64], NDArray[numpy.int64]]


class Blocks:
    """A memory-mapped file of tokens, read in blocks.

    Block i holds the inputs [i T, (i + 1) T) with T = `context_length`, and as labels the token after each: every token
    but the file's first, which is an eos, is predicted exactly once. What does not fill a block at the end is left out,
    or, with `partial`, makes a last block padded with token 0 under the label -100.
    """

    def __init__(self, path: Path, dtype: str, context_length: int, partial: bool = False) -> None:
        self._tokens = numpy.memmap(path, dtype=dtype, mode="r")
        self._length = context_length
        self._partial = partial

    def __len__(self) -> int:
        """Number of blocks."""
        predicted = len(self._tokens) - 1
        return -(-predicted // self._length) if self._partial else predicted // self._length

    def __getitem__(self, block: int) -> Sample:
        """Inputs and labels of one block, `[context_length]` each. Errors: `IndexError` beyond the last."""
        if not 0 <= block < len(self):
            raise IndexError(f"block {block} of {len(self)}")
        start = block * self._length
        tokens = self._tokens[start : start + self._length + 1].astype(numpy.int64)
        missing = self._length + 1 - len(tokens)
        inputs = numpy.pad(tokens[:-1], (0, missing))
        labels = numpy.pad(tokens[1:], (0, missing), constant_values=IGNORE)
        return inputs, labels


class Order:
    """Which block each sample of a run is: every epoch visits every block once, in an order of its own.

    It is a function of (seed, position) alone: a run resumed on any number of processes reads what it would have.
    The current epoch's permutation is kept: 8 bytes a block.
    """

    def __init__(self, blocks: int, seed: int) -> None:
        if blocks < 1:
            raise ValueError("an order needs at least one block")
        self._blocks = blocks
        self._seed = seed
        self._epoch = -1
        self._permutation: NDArray[numpy.int64] = numpy.empty(0, numpy.int64)

    def __getitem__(self, sample: int) -> int:
        """The block of sample number `sample`, counted from 0 over all epochs and all processes."""
        if sample < 0:
            raise IndexError(f"sample {sample} is before the first")
        epoch, position = divmod(sample, self._blocks)
        if epoch != self._epoch:
            generator = numpy.random.Generator(numpy.random.Philox(numpy.random.SeedSequence([self._seed, epoch])))
            self._permutation = generator.permutation(self._blocks)
            self._epoch = epoch
        return int(self._permutation[position])
