"""Language-model loss without whole logits: head matmul and cross-entropy, chunked over tokens, vocabulary-parallel.

Peak extra memory is `chunk_tokens x vocabulary / size` fp32 values. A chunk's gradients are computed in the forward
pass, while its logits exist, so that the backward pass repeats no matmul. They are stored unscaled, so that they do
not underflow in fp16, and are multiplied by the incoming gradient in the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from conf.choices import IGNORE_INDEX
from parallel.collectives import enter_column
from parallel.mesh import TensorParallelGroup


class LossOptions(NamedTuple):
    """z_loss: weight of logsumexp^2; chunk_tokens: tokens whose logits exist at one time; tp: splits the vocabulary.

    compile: torch.compile the computation of a chunk (only at tensor-parallel size 1).
    """

    z_loss: float
    chunk_tokens: int
    tp: TensorParallelGroup
    compile: bool = False


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Sum over tokens of `-log softmax(hidden @ weight.T + bias)[label] + z_loss * logsumexp^2`, a scalar in fp32.

    hidden: `[batch, seq, hidden]`, this process's tokens; weight: `[vocab / size, hidden]`; bias: `[vocab / size]`;
    labels: `[batch, seq]`, of the whole sequence, `IGNORE_INDEX` where a token does not count.
    """
    hidden = enter_column(hidden, options.tp).flatten(0, 1)
    return _FusedLoss.apply(  # type: ignore[no-any-return,no-untyped-call]
        hidden, weight, bias, labels.flatten(), options, torch.is_grad_enabled()
    )


def _chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Summed loss of a chunk, and its gradient by the logits `[tokens, vocab / size]` in hidden's precision."""
    tp = options.tp
    logits = torch.addmm(bias, hidden, weight.t()).float()
    valid = labels != IGNORE_INDEX
    local = labels - tp.rank * weight.shape[0]
    mine = (local >= 0) & (local < weight.shape[0]) & valid
    index = local.masked_fill(~mine, 0).unsqueeze(-1)
    target = logits.gather(-1, index).squeeze(-1).masked_fill(~mine, 0.0)
    maximum = logits.amax(dim=-1)
    if tp.size > 1:
        dist.all_reduce(maximum, op=dist.ReduceOp.MAX, group=tp.group)
    exponentials = (logits - maximum.unsqueeze(-1)).exp()
    normaliser = exponentials.sum(dim=-1)
    if tp.size > 1:
        both = torch.stack([normaliser, target])
        dist.all_reduce(both, group=tp.group)
        normaliser, target = both.unbind()
    log_z = maximum + normaliser.log()
    loss = torch.where(valid, log_z - target + options.z_loss * log_z.square(), 0.0).sum()
    if not gradient:
        return loss, loss
    scale = torch.where(valid, (1.0 + 2.0 * options.z_loss * log_z) / normaliser, 0.0)
    slope = exponentials.mul_(scale.unsqueeze(-1))
    slope.scatter_add_(-1, index, -mine.to(slope.dtype).unsqueeze(-1))
    return loss, slope.to(hidden.dtype)


@functools.cache
def _compiled_chunk() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_chunk, dynamic=False)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions, gradient: bool
    ) -> Tensor:
        chunk = _compiled_chunk() if options.compile and options.tp.size == 1 else _chunk
        loss = hidden.new_zeros((), dtype=torch.float32)
        pieces = list(
            zip(torch.split(hidden, options.chunk_tokens), torch.split(labels, options.chunk_tokens), strict=True)
        )
        keep = torch.float32 if len(pieces) > 1 else weight.dtype
        hidden_gradient = torch.empty_like(hidden) if gradient else None
        weight_gradient = torch.zeros_like(weight, dtype=keep) if gradient and len(pieces) > 1 else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if gradient else None
        start = 0
        for tokens, targets in pieces:
            piece_loss, slope = chunk(tokens, weight, bias, targets, options, gradient)
            loss += piece_loss
            if hidden_gradient is None or bias_gradient is None:
                continue
            torch.mm(slope, weight, out=hidden_gradient[start : start + len(tokens)])
            if weight_gradient is None:
                weight_gradient = slope.t() @ tokens
            else:
                weight_gradient += slope.t() @ tokens
            bias_gradient += slope.sum(dim=0, dtype=torch.float32)
            start += len(tokens)
        ctx.dtypes = hidden.dtype, weight.dtype, bias.dtype
        ctx.gradients = hidden_gradient, weight_gradient, bias_gradient
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [(gradient * upstream[0]).to(dtype) for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)]
        del ctx.gradients
        return (*scaled, None, None, None)
