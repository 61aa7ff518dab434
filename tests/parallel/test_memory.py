"""Bytes as they are allocated and released; tests/train/plan compares whole plans with live engines."""

import torch
from torch import nn

from parallel.memory import LiveBytes, run_micro_batch


def test_live_bytes_follow_allocation_and_release() -> None:
    known = torch.empty(100, device="meta")
    with torch.device("meta"), LiveBytes([known]) as live:
        view = known.view(10, 10)  # no memory of its own
        assert live.now == 0
        doubled = view * 2
        assert live.now == 400
        again = doubled + doubled
        assert (live.now, live.peak) == (800, 800)
        del doubled
        assert (live.now, live.peak) == (400, 800)
        del again
    assert live.now == 0


class Squares(nn.Module):
    """Keeps its input for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(8, device="meta"))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        squared = x * x * self.scale
        return squared if labels is None else squared.sum()


def test_a_micro_batch_is_measured_and_leaves_no_gradients() -> None:
    layers, hidden = [Squares(), Squares(), Squares()], (2, 4, 8)
    size = 2 * 4 * 8 * 4
    run = run_micro_batch(layers, first=False, last=False, hidden=hidden, seq=4)
    assert run.boundary == size and run.loss == 0 and run.collectives == []
    assert run.saved_activations >= 3 * size and run.peak > run.saved_activations
    assert all(parameter.grad is None for layer in layers for parameter in layer.parameters())
    last = run_micro_batch(layers, first=False, last=True, hidden=hidden, seq=4)
    assert last.loss > 0 and last.saved_activations < run.saved_activations + size
