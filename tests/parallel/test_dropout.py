"""Dropout's mask: as many zeros as asked, without a pattern, and the same whichever process holds the tokens."""

from dataclasses import replace

import pytest
import torch

from parallel.dropout import Dropout
from parallel.mesh import TensorParallelGroup, single_process_mesh

ALONE = single_process_mesh()


def mask(
    shape: tuple[int, int, int] = (4, 128, 256),
    probability: float = 0.3,
    layer: int = 1,
    step: int = 0,
    tp: TensorParallelGroup | None = None,
    micro_batches: int = 1,
    dp: tuple[int, int] = (0, 1),
) -> torch.Tensor:
    """1 where a value is kept, of the last of `micro_batches`; dp: rank and size."""
    dropout = Dropout(probability, layer, tp or TensorParallelGroup())
    dropout.begin_step(7, step, replace(ALONE, dp_rank=dp[0], dp_size=dp[1]))
    for _ in range(micro_batches):
        keys = dropout.sample_keys(shape[0], torch.device("cpu"))
    return dropout(torch.ones(shape), keys).gt(0).double()


def deviations(centred: torch.Tensor) -> float:
    """How many standard deviations the mean of `centred` is from 0, each entry counted as independent."""
    return abs(float(centred.mean() / centred.std() * centred.numel() ** 0.5))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_zeros_are_as_many_as_asked_and_the_rest_is_scaled(probability: float) -> None:
    assert deviations(mask(probability=probability) - (1 - probability)) < 4
    dropout = Dropout(probability, 1, TensorParallelGroup())
    out = dropout(torch.ones(2, 8, 16, dtype=torch.bfloat16), dropout.sample_keys(2, torch.device("cpu")))
    assert out.dtype == torch.bfloat16
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - probability), dtype=torch.bfloat16))}


def test_there_is_no_pattern_over_samples_positions_channels_layers_and_steps() -> None:
    one = mask() - 0.7
    neighbours = [one[1:] * one[:-1], one[:, 1:] * one[:, :-1], one[..., 1:] * one[..., :-1]]
    neighbours += [one[:, 64:] * one[:, :-64], one[..., 128:] * one[..., :-128]]
    others = [mask(layer=2), mask(step=1), mask(micro_batches=2)]
    for product in neighbours + [one * (other - 0.7) for other in others]:
        assert deviations(product) < 4


def test_a_token_is_masked_alike_wherever_it_is() -> None:
    whole = mask()
    for rank in range(4):
        sharing = TensorParallelGroup(4, rank, sequence_parallel=True)
        assert torch.equal(mask((4, 32, 256), tp=sharing), whole[:, 32 * rank : 32 * (rank + 1)])
        assert torch.equal(mask((1, 128, 256), dp=(rank, 4)), whole[rank : rank + 1])
        assert torch.equal(mask((1, 128, 256), micro_batches=rank + 1), whole[rank : rank + 1])
    assert torch.equal(mask((1, 128, 256), micro_batches=2, dp=(1, 2)), whole[3:])


def test_nothing_is_dropped_in_evaluation_and_it_does_not_count() -> None:
    dropout = Dropout(0.5, 1, TensorParallelGroup())
    hidden_states = torch.ones(2, 4, 8)
    first = dropout.sample_keys(2, torch.device("cpu"))
    dropout.begin_step(0, 0, ALONE)
    dropout.eval()
    assert dropout.sample_keys(2, torch.device("cpu")) is None
    assert dropout(hidden_states, None) is hidden_states
    dropout.train()
    assert first is not None and dropout.micro_batch == 0
