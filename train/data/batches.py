"""Which sample goes to which process: a pure function of the position, counted in samples, so that a resumed run on
any number of processes reads what it would have read."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from parallel.cross_entropy import IGNORE
from train.data.blocks import Blocks, Order


def micro_batches(
    blocks: Blocks,
    order: Order,
    position_samples: int,
    micro_batch_size: int,
    dp_rank: int,
    dp_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels, `[micro_batch, seq]` each, for replica `data_rank` of `data_size`, without end.

    position_samples: samples that all replicas together have consumed before.
    """
    start = position_samples + dp_rank * micro_batch_size
    while True:
        samples = [blocks[order[start + offset]] for offset in range(micro_batch_size)]
        yield _stacked(samples)
        start += micro_batch_size * dp_size


def validation_batches(blocks: Blocks, batch_size: int, dp_rank: int, dp_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every block of a validation set once over all replicas, in order; every replica gets as many batches.

    Rows that lie beyond the set repeat its first block with every label ignored.
    """
    ids, labels = blocks[0]
    beyond = (ids, labels * 0 + IGNORE)
    for first in range(0, len(blocks), batch_size * dp_size):
        rows = range(first + dp_rank * batch_size, first + (dp_rank + 1) * batch_size)
        yield _stacked([blocks[row] if row < len(blocks) else beyond for row in rows])


def _stacked(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    ids, labels = zip(*samples, strict=True)
    return torch.stack([torch.as_tensor(row) for row in ids]), torch.stack([torch.as_tensor(row) for row in labels])
