"""Sampling tokens from logits: greedy, temperature, top-k, nucleus. Used during training and by the commands."""

from collections.abc import Sequence

import torch
from torch import Tensor

GREEDY_BELOW = 1e-4  # temperatures that fp32 can hardly divide by; the draw would be the most likely token anyway
FEW = 256  # tokens that hold a nucleus nearly always; on a CPU, sorting the whole vocabulary costs 15 times as much


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """`[len(seeds), count]` uniform draws in [0, 1), fp32 on the CPU; each row is a function of its seed alone."""
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def before(ids: list[int], stop: int) -> list[int]:
    """What was drawn before the first `stop`; all of it where none was."""
    return ids[: ids.index(stop)] if stop in ids else ids


def choose(logits: Tensor, temperature: float, top_p: float, top_k: int, uniform: Tensor) -> Tensor:
    """A token `[batch]` for each row of logits `[batch, vocab]`, fp32.

    temperature 0 takes the most likely. Otherwise the `top_k` most likely are kept (0: all), and of these the smallest
    set with probability `top_p` (arXiv 1904.09751). `uniform` `[batch]` in [0, 1) says where in what is kept, from the
    most likely on, the draw falls: a row's token depends on no other row.
    """
    if temperature < GREEDY_BELOW:
        return logits.argmax(dim=-1)
    if 0 < top_k < logits.shape[-1]:
        logits, candidates = logits.topk(top_k)
        return candidates.gather(-1, choose(logits, temperature, top_p, 0, uniform).unsqueeze(-1)).squeeze(-1)
    probabilities = (logits / temperature).softmax(dim=-1)
    if logits.device.type == "cpu" and logits.shape[-1] > FEW:
        likely, order = probabilities.topk(FEW)
        if bool((likely.sum(dim=-1) >= top_p).all()):
            return _draw(likely, order, top_p, uniform)
    return _draw(*probabilities.sort(dim=-1, descending=True, stable=True), top_p, uniform)


def _draw(likely: Tensor, order: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """From probabilities `[batch, tokens]` that fall from left to right, and the tokens they belong to."""
    up_to = likely.cumsum(dim=-1)
    kept = (up_to - likely < top_p).sum(dim=-1, keepdim=True)  # at least one
    total = up_to.gather(-1, kept - 1)
    place = (up_to <= uniform.unsqueeze(-1) * total).sum(dim=-1, keepdim=True)
    return order.gather(-1, place.minimum(kept - 1)).squeeze(-1)
