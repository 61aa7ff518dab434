"""Micro-batches of each data-parallel rank, as a pure function of the position in samples.

A resumed run therefore reads the same samples in the same order on any number of ranks.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from conf.choices import IGNORE_INDEX
from parallel.micro_batch import MicroBatch
from train.data.packed_dataset import Sample, Samples

JOIN_SECONDS = 10.0  # for a thread that waits for its storage
PREFETCHED = 4  # micro-batches at least that wait for the device


Gap = tuple[int, int]  # positions [first, last) in the order of the data


class Order(Protocol):
    """The sample that training reads at each position."""

    def __getitem__(self, position: int) -> int:
        """Index into the data set of the sample at `position`."""


class PassingOver:
    """An order of samples without those in `gaps`, positions [first, last) of the order underneath, sorted."""

    def __init__(self, order: Order, gaps: Sequence[Gap]) -> None:
        self.order = order
        self.gaps = gaps

    def __getitem__(self, position: int) -> int:
        """Index into the data set of the sample at `position`."""
        return self.order[underneath(position, self.gaps)]


def underneath(position: int, gaps: Sequence[Gap]) -> int:
    """Where in the whole order the sample is that stands at `position` of the order without `gaps`."""
    for first, last in gaps:
        if first <= position:
            position += last - first
    return position


def merged(gaps: Iterable[Gap]) -> list[Gap]:
    """`gaps` in order, those that touch or overlap as one."""
    result: list[Gap] = []
    for first, last in sorted(gaps):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def micro_batches(
    dataset: Samples,
    order: Order,
    position_samples: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
) -> Iterator[MicroBatch]:
    """Endless micro-batches of data-parallel rank `dp_rank`, each `[micro_batch_size, context_length]`.

    position_samples: number of samples that all data-parallel ranks together have consumed so far.
    """
    start = position_samples + dp_rank * micro_batch_size
    while True:
        samples = [dataset[order[start + offset]] for offset in range(micro_batch_size)]
        yield _stack(samples)
        start += micro_batch_size * dp_size


def prefetched(batches: Iterator[MicroBatch], pin: bool, ahead: int = PREFETCHED) -> Iterator[MicroBatch]:
    """`batches`, made by a thread, `ahead` at most; with `pin` in memory that a GPU copies from while it computes.

    Errors: those of `batches`, at the same place.
    """
    ready: queue.Queue[MicroBatch | BaseException | None] = queue.Queue(max(ahead, PREFETCHED))
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
            for batch in batches:
                put(batch.pin_memory() if pin else batch)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(JOIN_SECONDS)  # torch must not be at work in it when the interpreter ends


def validation_batches(dataset: Samples, batch_size: int, dp_rank: int, dp_size: int) -> Iterator[MicroBatch]:
    """Every validation sample once, in order, dealt out over the data-parallel ranks; `[batch_size, context_length]`.

    All ranks get the same number of batches, as evaluation is collective: rows past the end repeat the first sample
    with every label set to `IGNORE_INDEX`.
    """
    ids, labels, *positions = dataset[0]
    padding = (ids, np.full_like(labels, IGNORE_INDEX), *positions)
    for first in range(0, len(dataset), batch_size * dp_size):
        rows = range(first + dp_rank * batch_size, first + (dp_rank + 1) * batch_size)
        yield _stack([dataset[row] if row < len(dataset) else padding for row in rows])


def _stack(samples: Sequence[Sample]) -> MicroBatch:
    return MicroBatch(*(torch.stack([torch.as_tensor(row) for row in rows]) for rows in zip(*samples, strict=True)))
