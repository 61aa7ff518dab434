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
from parallel.main_gradient import add_product, main_gradient
from parallel.mesh import TensorParallelGroup


class LossOptions(NamedTuple):
    """z_loss: weight of logsumexp^2; chunk_tokens: tokens whose logits exist at one time; tp: splits the vocabulary.

    compile: torch.compile what a chunk computes beside its collectives.
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


def _statistics(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, first: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A chunk's logits `[tokens, vocab / size]` in hidden's precision, and of each token, in this process's rows of the
    vocabulary, which begin at `first`: the label's row or -1, the largest logit, sum(exp(logit - largest)), and the
    label's logit or 0."""
    logits = torch.addmm(bias, hidden, weight.t())
    row = labels - first
    row = torch.where((row >= 0) & (row < weight.shape[0]), row, -1)
    values = logits.float()
    maximum = values.amax(dim=-1)
    normaliser = (values - maximum.unsqueeze(-1)).exp_().sum(dim=-1)
    target = logits.gather(-1, row.clamp(min=0).unsqueeze(-1)).squeeze(-1).float()
    return logits, row, maximum, normaliser, torch.where(row >= 0, target, 0.0)


def _loss(labels: Tensor, log_z: Tensor, target: Tensor, z_loss: float) -> Tensor:
    """The chunk's summed loss; log_z: of the whole vocabulary."""
    return torch.where(labels != IGNORE_INDEX, log_z - target + z_loss * log_z.square(), 0.0).sum()


def _loss_and_slope(
    labels: Tensor, log_z: Tensor, target: Tensor, z_loss: float, logits: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """The summed loss, and its gradient by the logits, in their precision.

    exp() is computed again rather than kept from `_statistics`: the logits are read twice in their precision, where
    keeping the fp32 exponentials would write and read twice as many bytes.
    """
    weight = torch.where(labels != IGNORE_INDEX, 1.0 + 2.0 * z_loss * log_z, 0.0)
    slope = (logits.float() - log_z.unsqueeze(-1)).exp_().mul_(weight.unsqueeze(-1)).to(logits.dtype)
    at, of_label = row.clamp(min=0).unsqueeze(-1), ((target - log_z).exp() * weight - 1.0).to(logits.dtype)
    slope.scatter_(-1, at, torch.where(row >= 0, of_label, slope.gather(-1, at).squeeze(-1)).unsqueeze(-1))
    return _loss(labels, log_z, target, z_loss), slope


def _log_normaliser(maximum: Tensor, normaliser: Tensor, target: Tensor, tp: TensorParallelGroup) -> list[Tensor]:
    """log(sum(exp(logits))) and the label's logit, of the whole vocabulary, from each process's rows."""
    if tp.size > 1:
        largest = maximum.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=tp.group)
        both = torch.stack([normaliser * (maximum - largest).exp(), target])
        dist.all_reduce(both, group=tp.group)
        maximum, (normaliser, target) = largest, both.unbind()
    return [maximum + normaliser.log(), target]


@functools.cache
def _forms(compile: bool) -> list[Callable[..., Any]]:
    functions: list[Callable[..., Any]] = [_statistics, _loss, _loss_and_slope]
    return [torch.compile(function, dynamic=False) for function in functions] if compile else functions


def _column_sums(slope: Tensor) -> Tensor:
    """Sums over tokens `[tokens, vocab / size]` in fp32. On a CPU BLAS takes a fifth of the time of torch's `sum`."""
    if slope.device.type == "cpu" and slope.dtype == torch.float32:
        return torch.mv(slope.t(), slope.new_ones(len(slope)))
    return slope.sum(dim=0, dtype=torch.float32)


def _scaled(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient * scale` in `dtype`, in place where that is its own."""
    return gradient.mul_(scale) if gradient.dtype == dtype else (gradient * scale).to(dtype)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions, gradient: bool
    ) -> Tensor:
        statistics, loss_of, loss_and_slope = _forms(options.compile)
        loss = hidden.new_zeros((), dtype=torch.float32)
        pieces = list(
            zip(torch.split(hidden, options.chunk_tokens), torch.split(labels, options.chunk_tokens), strict=True)
        )
        hidden_gradient = torch.empty_like(hidden) if gradient else None
        trained = gradient and ctx.needs_input_grad[1]  # the weight and its bias may be frozen
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if trained and len(pieces) > 1 else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if trained else None
        start, first = 0, options.tp.rank * weight.shape[0]
        for tokens, targets in pieces:
            logits, row, maximum, normaliser, target = statistics(tokens, weight, bias, targets, first)
            log_z, target = _log_normaliser(maximum, normaliser, target, options.tp)
            if hidden_gradient is None:
                loss += loss_of(targets, log_z, target, options.z_loss)
                continue
            piece_loss, slope = loss_and_slope(targets, log_z, target, options.z_loss, logits, row)
            loss += piece_loss
            torch.mm(slope, weight, out=hidden_gradient[start : start + len(tokens)])
            start += len(tokens)
            if bias_gradient is None:
                continue
            bias_gradient += _column_sums(slope)
            if weight_gradient is None:
                weight_gradient = slope.t() @ tokens
            else:
                add_product(weight_gradient, slope.t(), tokens)
        ctx.dtypes = hidden.dtype, weight.dtype, bias.dtype
        ctx.gradients = hidden_gradient, weight_gradient, bias_gradient
        ctx.main_gradient = main_gradient(weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (of_hidden, of_weight, of_bias), scale = ctx.gradients, upstream[0]
        del ctx.gradients
        hidden_type, weight_type, bias_type = ctx.dtypes
        if of_weight is None:
            return _scaled(of_hidden, scale, hidden_type), None, None, None, None, None
        if ctx.main_gradient is not None:
            ctx.main_gradient.total.addcmul_(of_weight, scale)
            ctx.main_gradient.added()
            scaled = None
        else:
            scaled = _scaled(of_weight, scale, weight_type)
        return _scaled(of_hidden, scale, hidden_type), scaled, _scaled(of_bias, scale, bias_type), None, None, None
