"""Language-model loss without whole logits: head matmul and cross-entropy, chunked over tokens, vocabulary-parallel.

Peak extra memory is `chunk_tokens x vocabulary / size` fp32 values. A chunk's gradients are computed in the forward
pass, while its logits exist, so that the backward pass repeats no matmul. They are stored unscaled, so that they do
not underflow in fp16, and are multiplied by the incoming gradient in the backward pass. Where all tokens are one chunk
its logits are kept until then instead, and no sum over chunks is stored and scaled.
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
    hidden, labels, gradient = enter_column(hidden, options.tp).flatten(0, 1), labels.flatten(), torch.is_grad_enabled()
    if gradient and len(labels) <= options.chunk_tokens:
        return _OneChunk.apply(hidden, weight, bias, labels, options)  # type: ignore[no-any-return,no-untyped-call]
    return _Chunks.apply(hidden, weight, bias, labels, options, gradient)  # type: ignore[no-any-return,no-untyped-call]


class _Chunk(NamedTuple):
    """What `_loss` and `_slope` need of a chunk."""

    labels: Tensor
    log_z: Tensor
    target: Tensor
    product: Tensor
    row: Tensor
    bias: Tensor


def _statistics(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, first: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A chunk's product `[tokens, vocab / size]` in hidden's precision, and of each token, in this process's rows of
    the vocabulary, which begin at `first`: the label's row or -1, the largest logit, sum(exp(logit - largest)), and the
    label's logit or 0.

    The bias is added here, in fp32, and again in `_slope`: a CPU's product would first copy it to every row.
    """
    product = hidden @ weight.t()
    row = labels - first
    row = torch.where((row >= 0) & (row < weight.shape[0]), row, -1)
    values = product.float() + bias
    maximum = values.amax(dim=-1)
    normaliser = (values - maximum.unsqueeze(-1)).exp_().sum(dim=-1)
    target = values.gather(-1, row.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return product, row, maximum, normaliser, torch.where(row >= 0, target, 0.0)


def _loss(labels: Tensor, log_z: Tensor, target: Tensor, z_loss: float) -> Tensor:
    """The chunk's summed loss; log_z: of the whole vocabulary."""
    return torch.where(labels != IGNORE_INDEX, log_z - target + z_loss * log_z.square(), 0.0).sum()


def _slope(chunk: _Chunk, z_loss: float, scale: Tensor) -> Tensor:
    """The gradient of `scale` times the summed loss by the logits, in their precision.

    exp() is computed again rather than kept from `_statistics`: the logits are read twice in their precision, where
    keeping the fp32 exponentials would write and read twice as many bytes.
    """
    weight = torch.where(chunk.labels != IGNORE_INDEX, (1.0 + 2.0 * z_loss * chunk.log_z) * scale, 0.0)
    logits = chunk.product.float() + chunk.bias
    slope = (logits - chunk.log_z.unsqueeze(-1)).exp_().mul_(weight.unsqueeze(-1)).to(chunk.product.dtype)
    of_label = ((chunk.target - chunk.log_z).exp() * weight - scale).to(slope.dtype)
    at = chunk.row.clamp(min=0).unsqueeze(-1)
    of_label = torch.where(chunk.row >= 0, of_label, slope.gather(-1, at).squeeze(-1))
    return slope.scatter_(-1, at, of_label.unsqueeze(-1))


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
def _form(function: Callable[..., Any], compile: bool) -> Callable[..., Any]:
    """`_statistics` or `_slope`, compiled or as it is. `_loss`, one number a token, gains nothing from it."""
    return torch.compile(function, dynamic=False) if compile else function


def _column_sums(slope: Tensor) -> Tensor:
    """Sums over tokens `[tokens, vocab / size]` in fp32. On a CPU a product takes a part of the time of torch's `sum`;
    one in bf16 is rounded to it, as the weight's gradient is."""
    if slope.device.type == "cpu" and slope.dtype == torch.float32:
        return torch.mv(slope.t(), slope.new_ones(len(slope)))
    if slope.device.type == "cpu" and slope.dtype == torch.bfloat16:
        return torch.mm(slope.new_ones(1, len(slope)), slope)[0].float()
    return slope.sum(dim=0, dtype=torch.float32)


def _scaled(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`gradient * scale` in `dtype`, in place where that is its own."""
    return gradient.mul_(scale) if gradient.dtype == dtype else (gradient * scale).to(dtype)


def _chunk(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions) -> _Chunk:
    first = options.tp.rank * weight.shape[0]
    statistics = _form(_statistics, options.compile)
    product, row, maximum, normaliser, target = statistics(hidden, weight, bias, labels, first)
    log_z, target = _log_normaliser(maximum, normaliser, target, options.tp)
    return _Chunk(labels, log_z, target, product, row, bias)


class _OneChunk(torch.autograd.Function):
    """The loss of tokens whose logits may all exist at one time."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
        chunk = _chunk(hidden, weight, bias, labels, options)
        ctx.save_for_backward(hidden, weight, *chunk)
        ctx.options, ctx.main_gradient = options, main_gradient(weight)
        return _loss(chunk.labels, chunk.log_z, chunk.target, options.z_loss)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, *saved = ctx.saved_tensors
        chunk, main = _Chunk(*saved), ctx.main_gradient
        slope = _form(_slope, ctx.options.compile)(chunk, ctx.options.z_loss, upstream[0])
        of_hidden = slope @ weight
        if not ctx.needs_input_grad[1]:  # the weight and its bias are frozen
            return of_hidden, None, None, None, None
        of_bias = _column_sums(slope).to(chunk.bias.dtype)
        if main is None:
            return of_hidden, slope.t() @ hidden, of_bias, None, None
        add_product(main.total, slope.t(), hidden, main.empty)
        main.added()
        return of_hidden, None, of_bias, None, None


class _Chunks(torch.autograd.Function):
    """The loss chunk by chunk, with the gradients of each while its logits exist."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, options: LossOptions, gradient: bool
    ) -> Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        of_hidden = torch.empty_like(hidden) if gradient else None
        trained = gradient and ctx.needs_input_grad[1]  # the weight and its bias may be frozen
        of_weight = torch.empty_like(weight, dtype=torch.float32) if trained else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if trained else None
        start, one = 0, torch.ones_like(loss)
        pieces = (torch.split(each, options.chunk_tokens) for each in (hidden, labels))
        for tokens, targets in zip(*pieces, strict=True):
            chunk = _chunk(tokens, weight, bias, targets, options)
            loss += _loss(chunk.labels, chunk.log_z, chunk.target, options.z_loss)
            if of_hidden is None:
                continue
            slope = _form(_slope, options.compile)(chunk, options.z_loss, one)
            torch.mm(slope, weight, out=of_hidden[start : start + len(tokens)])
            if of_weight is not None and of_bias is not None:
                add_product(of_weight, slope.t(), tokens, empty=not start)
                of_bias += _column_sums(slope)
            start += len(tokens)
        ctx.dtypes = hidden.dtype, weight.dtype, bias.dtype
        ctx.gradients = of_hidden, of_weight, of_bias
        ctx.main_gradient = main_gradient(weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (of_hidden, of_weight, of_bias), scale, main = ctx.gradients, upstream[0], ctx.main_gradient
        del ctx.gradients
        hidden_type, weight_type, bias_type = ctx.dtypes
        of_hidden = _scaled(of_hidden, scale, hidden_type)
        if of_weight is None:
            return of_hidden, None, None, None, None, None
        if main is None:
            of_weight = _scaled(of_weight, scale, weight_type)
        else:
            main.add(of_weight, scale)
            of_weight = None
        return of_hidden, of_weight, _scaled(of_bias, scale, bias_type), None, None, None
