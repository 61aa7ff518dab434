"""Samples on their way through an engine, and what each of their labels weighs in the loss of an optimizer step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from conf.choices import IGNORE_INDEX
from parallel.mesh import ProcessMesh


class MicroBatch(NamedTuple):
    """Samples of one forward pass, `[micro_batch, seq]` each.

    labels: `IGNORE_INDEX` where a token does not count. positions: int32, of each token in its document, so that 0
    begins one; documents do not see each other then. None: every token sees all before it.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`; pinned memory is copied while the device computes."""
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        return MicroBatch(self.ids.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), positions)

    def pin_memory(self) -> "MicroBatch":
        """The same in memory that a GPU copies from while it computes."""
        positions = None if self.positions is None else self.positions.pin_memory()
        return MicroBatch(self.ids.pin_memory(), self.labels.pin_memory(), positions)


def label_weight(step: Sequence[MicroBatch], mesh: ProcessMesh) -> Tensor:
    """Tokens of the global batch for each of its labels that counts, a scalar in fp32; 1 where all count.

    The loss of a micro-batch is a mean over all of its tokens. Times this weight, the mean of a step's losses is the
    mean over the labels that count, wherever the others are. step: this replica's. Every process calls it.
    """
    tokens = sum(each.labels.numel() for each in step)
    counted = sum(int((each.labels != IGNORE_INDEX).sum()) for each in step)
    totals = torch.tensor([tokens, counted], dtype=torch.float64).to(mesh.device, non_blocking=True)
    all_tokens, all_counted = mesh.all_reduce_dp(totals).unbind()
    return (all_tokens / all_counted.clamp(min=1)).float()
