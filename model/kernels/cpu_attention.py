"""Causal attention on a CPU in bf16, a block of queries at a time, each against the keys up to its last.

torch's fused form computes small tiles, whose bf16 products a CPU computes more slowly: it takes 1.6 to 4 times as long
(tests/benchmarks/RESULTS.md). Here the probabilities stay in memory for the backward pass, two bytes for each query and
key. Scores are rounded to bf16 before their softmax, as in Megatron-LM's unfused attention; the softmax itself is
computed in fp32.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.attention import sdpa_attention

ROWS = 256  # queries of a block
LARGEST = 2**26  # probabilities of a layer, 128 MiB; where there are more, torch's form is, which keeps none


def blocked_attention(q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """See `model.kernels.attention`; torch's fused form with a mask, in other precisions, and for larger inputs."""
    half = q.dtype is torch.bfloat16 and q.device.type == "cpu"
    if attention_mask is not None or not half or q.shape != k.shape or _count(q.flatten(0, 1).shape) > LARGEST:
        return sdpa_attention(q, k, v, attention_mask)
    out: Tensor = _attend(*(value.flatten(0, 1) for value in (q, k, v)))[0]
    return out.view(q.shape)


def _blocks(length: int) -> list[tuple[int, int]]:
    """First query and end of each block."""
    return [(first, min(first + ROWS, length)) for first in range(0, length, ROWS)]


def _parts(probabilities: Tensor, shape: torch.Size) -> list[Tensor]:
    """Those of each block, `[batch * heads, queries, keys]`, which lie one after the other."""
    sizes = [(shape[0], end - first, end) for first, end in _blocks(shape[1])]
    flat = torch.split(probabilities, [heads * queries * keys for heads, queries, keys in sizes])
    return [part.view(size) for part, size in zip(flat, sizes, strict=True)]


def _count(shape: torch.Size) -> int:
    """Probabilities of all blocks."""
    return sum(shape[0] * (end - first) * end for first, end in _blocks(shape[1]))


@torch.library.custom_op("codegen::blocked_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v `[batch * heads, seq, head_dim]` -> the same, and the probabilities.

    An operation of its own, because inductor takes most of a minute to compile it and gains nothing.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, probabilities, scale = torch.empty_like(q), q.new_empty(_count(q.shape)), q.shape[-1] ** -0.5
    for (first, end), part in zip(_blocks(q.shape[1]), _parts(probabilities, q.shape), strict=True):
        scores = torch.baddbmm(q.new_empty(()), q[:, first:end], k[:, :end].transpose(1, 2), beta=0, alpha=scale)
        future = torch.ones(end - first, end - first, dtype=torch.bool).triu(1)
        scores[:, :, first:].masked_fill_(future, float("-inf"))
        torch.softmax(scores, dim=-1, out=part)
        out[:, first:end] = part @ v[:, :end]
    return out, probabilities


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(_count(q.shape))


@torch.library.custom_op("codegen::blocked_attention_backward", mutates_args=())
def _backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, probabilities: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; those of k and v are summed over the blocks in fp32."""
    gradient, q, k, v = gradient.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    of_q, scale = torch.empty_like(q), q.shape[-1] ** -0.5
    of_k, of_v = (torch.zeros_like(value, dtype=torch.float32) for value in (k, v))
    for (first, end), part in zip(_blocks(q.shape[1]), _parts(probabilities, q.shape), strict=True):
        of_out = gradient[:, first:end]
        of_v[:, :end] += part.transpose(1, 2) @ of_out
        of_part = of_out @ v[:, :end].transpose(1, 2)
        of_scores = torch._softmax_backward_data(of_part, part, -1, part.dtype)
        of_q[:, first:end] = torch.baddbmm(q.new_empty(()), of_scores, k[:, :end], beta=0, alpha=scale)
        of_k[:, :end] += torch.baddbmm(q.new_empty(()), of_scores.transpose(1, 2), q[:, first:end], beta=0, alpha=scale)
    return of_q, of_k.to(k.dtype), of_v.to(v.dtype)


@_backward.register_fake
def _(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _backward(gradient, *ctx.saved_tensors)
    return found


_attend.register_autograd(_gradients, setup_context=_save)
