"""Micro-batches of each data-parallel rank, as a pure function of the position in samples.

A resumed run therefore reads the same samples in the same order on any number of ranks.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from conf.choices import IGNORE_INDEX
from train.data.packed_dataset import PackedDataset, Sample

PREFETCHED = 4  # micro-batches that wait for the device

MicroBatch = tuple[Tensor, Tensor]


class Samples(Protocol):
    """Training samples by index."""

    def __getitem__(self, index: int) -> Sample:
        """(inputs, labels), `[context_length]` each."""


class Order(Protocol):
    """The sample that training reads at each position."""

    def __getitem__(self, position: int) -> int:
        """Index into the data set of the sample at `position`."""


def micro_batches(
    dataset: Samples,
    order: Order,
    position_samples: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (token ids, labels) of data-parallel rank `dp_rank`, each `[micro_batch_size, context_length]`.

    position_samples: number of samples that all data-parallel ranks together have consumed so far.
    """
    start = position_samples + dp_rank * micro_batch_size
    while True:
        samples = [dataset[order[start + offset]] for offset in range(micro_batch_size)]
        yield _stack(samples)
        start += micro_batch_size * dp_size


def prefetched(batches: Iterator[MicroBatch], pin: bool) -> Iterator[MicroBatch]:
    """`batches`, made ahead by a thread; with `pin` in memory that a GPU copies from while it computes.

    Errors: those of `batches`, at the same place.
    """
    ready: queue.Queue[MicroBatch | BaseException | None] = queue.Queue(PREFETCHED)
    stopped = threading.Event()

    def put(item: MicroBatch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                pass

    def make() -> None:
        try:
            for ids, labels in batches:
                put((ids.pin_memory(), labels.pin_memory()) if pin else (ids, labels))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=make, name="prefetch", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def validation_batches(
    dataset: PackedDataset, batch_size: int, dp_rank: int, dp_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every validation sample once, in order, dealt out over the data-parallel ranks; `[batch_size, context_length]`.

    All ranks get the same number of batches, as evaluation is collective: rows past the end repeat the first sample
    with every label set to `IGNORE_INDEX`.
    """
    ids, labels = dataset[0]
    padding = (ids, np.full_like(labels, IGNORE_INDEX))
    for first in range(0, len(dataset), batch_size * dp_size):
        rows = range(first + dp_rank * batch_size, first + (dp_rank + 1) * batch_size)
        yield _stack([dataset[row] if row < len(dataset) else padding for row in rows])


def _stack(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    ids, labels = zip(*samples, strict=True)
    return torch.stack([torch.as_tensor(row) for row in ids]), torch.stack([torch.as_tensor(row) for row in labels])
