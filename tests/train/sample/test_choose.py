"""Tokens are drawn from the distribution that the settings describe, and from no other."""

import pytest
import torch

from train.sample.choose import FEW, choose, uniforms

GRID = (torch.arange(20000) + 0.5) / 20000  # every draw there is, evenly: frequencies are probabilities


def frequencies(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    drawn = choose(logits.expand(len(GRID), -1), temperature, top_p, top_k, GRID)
    return torch.bincount(drawn, minlength=len(logits)) / len(GRID)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_all_tokens_at_their_probabilities(temperature: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    expected = (logits / temperature).softmax(-1)
    torch.testing.assert_close(frequencies(logits, temperature, 1.0, 0), expected, rtol=0, atol=1.1e-4)


@pytest.mark.parametrize(
    ("top_p", "top_k", "kept"),
    [(1.0, 2, [0.4, 0.3, 0, 0]), (0.65, 0, [0.4, 0.3, 0, 0]), (0.75, 0, [0.4, 0.3, 0.2, 0]), (1e-6, 0, [0.4, 0, 0, 0]),
     (0.6, 3, [0.4, 0.3, 0, 0]), (0.5, 1, [0.4, 0, 0, 0]), (1.0, 9, [0.4, 0.3, 0.2, 0.1])],
)  # fmt: skip
def test_only_what_is_kept_is_drawn(top_p: float, top_k: int, kept: list[float]) -> None:
    """top-k first, then the nucleus of what it leaves: 0.6 of [4/9, 3/9, 2/9] are two tokens."""
    order = torch.tensor([2, 0, 3, 1])
    expected = (torch.tensor(kept) / sum(kept))[order]
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1])[order].log()
    torch.testing.assert_close(frequencies(logits, 1.0, top_p, top_k), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spread", [0.1, 4.0])
def test_a_large_vocabulary_draws_the_same(spread: float) -> None:
    """Both where the nucleus lies among the few most likely tokens and where it does not."""
    logits = spread * torch.randn(4 * FEW, generator=torch.Generator().manual_seed(0))
    probabilities, order = logits.softmax(-1).sort(descending=True)
    size = int((probabilities.cumsum(-1) < 0.9).sum()) + 1
    assert (size > FEW) == (spread < 1)
    expected = torch.zeros_like(logits)
    expected[order[:size]] = probabilities[:size] / probabilities[:size].sum()
    torch.testing.assert_close(frequencies(logits, 1.0, 0.9, 0), expected, rtol=0, atol=1.1e-4)


def test_temperature_zero_and_near_zero_take_the_most_likely() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    for temperature in (0.0, 1e-40, 1e-6, 1e-3):
        for uniform in (0.0, 0.5, 1 - 2**-24):
            drawn = choose(logits, temperature, 1.0, 0, torch.full((3,), uniform))
            assert drawn.tolist() == logits.argmax(-1).tolist()


def test_uniforms_depend_on_their_seed_alone() -> None:
    one, other = uniforms([5, 6], 9), uniforms([7, 5, 6], 4)
    assert torch.equal(one[0, :4], other[1]) and torch.equal(one[1, :4], other[2])
    assert not torch.equal(one[0], one[1])
    assert float(one.min()) >= 0 and float(one.max()) < 1
