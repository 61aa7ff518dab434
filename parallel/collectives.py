"""Collectives of the tensor-parallel group, each autograd function named by what it does forward and backward.

Each takes `hidden_states` as `[batch, seq, hidden]`. The idea and the pairs are Megatron-LM's (arXiv 1909.08053 for
f and g, arXiv 2205.05198 for the sequence-parallel pair).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.mesh import TensorParallelGroup


def all_reduce(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Sum over the group: any shape -> the same, a new tensor, no gradient."""
    x = x.contiguous().clone()
    dist.all_reduce(x, group=tp.group)
    return x


def gather_sequence(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """`[batch, seq / size, hidden]` of each process -> `[batch, seq, hidden]`, no gradient."""
    return start_gather_sequence(x, tp)()


def start_gather_sequence(x: Tensor, tp: TensorParallelGroup) -> Callable[[], Tensor]:
    """Start `gather_sequence`; the returned call waits for it."""
    batch, tokens, hidden = x.shape
    parts = x.new_empty(tp.size * batch, tokens, hidden)
    work = dist.all_gather_into_tensor(parts, x.contiguous(), group=tp.group, async_op=True)

    def wait() -> Tensor:
        if work is not None:
            work.wait()
        # a copy only where batch > 1
        return parts.view(tp.size, batch, tokens, hidden).transpose(0, 1).reshape(batch, tp.size * tokens, hidden)

    return wait


def reduce_scatter_sequence(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Sum `[batch, seq, hidden]` over the group and keep this process's `[batch, seq / size, hidden]`, no gradient."""
    return _start_reduce_scatter_sequence(x, tp)()


def _start_reduce_scatter_sequence(x: Tensor, tp: TensorParallelGroup) -> Callable[[], Tensor]:
    batch, tokens, hidden = x.shape[0], x.shape[1] // tp.size, x.shape[2]
    # a copy only where batch > 1
    parts = x.reshape(batch, tp.size, tokens, hidden).transpose(0, 1).reshape(tp.size * batch, tokens, hidden)
    kept = x.new_empty(batch, tokens, hidden)
    work = dist.reduce_scatter_tensor(kept, parts, group=tp.group, async_op=True)

    def wait() -> Tensor:
        if work is not None:
            work.wait()
        return kept

    return wait


def gather_vocabulary(logits: Tensor, tp: TensorParallelGroup) -> Tensor:
    """`[batch, vocab / size]` of each process -> `[batch, vocab]`, identical on every process, no gradient."""
    if tp.size == 1:
        return logits
    parts = logits.new_empty(tp.size * len(logits), logits.shape[1])
    dist.all_gather_into_tensor(parts, logits.contiguous(), group=tp.group)
    return parts.view(tp.size, *logits.shape).transpose(0, 1).flatten(1)


def start_leave_column(gradient: Tensor, tp: TensorParallelGroup) -> Callable[[], Tensor]:
    """Start the backward collective of `enter_column` on `[batch, seq, hidden]`; the returned call waits for it."""
    if tp.sequence_parallel:
        return _start_reduce_scatter_sequence(gradient, tp)
    result = gradient.contiguous()
    work = dist.all_reduce(result, group=tp.group, async_op=True)

    def wait() -> Tensor:
        if work is not None:
            work.wait()
        return result

    return wait


class _IdentityForwardAllReduceBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallelGroup) -> Tensor:
        ctx.tp = tp
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce(gradients[0], ctx.tp), None


class _AllReduceForwardIdentityBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallelGroup) -> Tensor:
        return all_reduce(x, tp)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _AllGatherForwardReduceScatterBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallelGroup) -> Tensor:
        ctx.tp = tp
        return gather_sequence(x, tp)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return reduce_scatter_sequence(gradients[0], ctx.tp), None


class _ReduceScatterForwardAllGatherBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: TensorParallelGroup) -> Tensor:
        ctx.tp = tp
        return reduce_scatter_sequence(x, tp)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gather_sequence(gradients[0], ctx.tp), None


def enter_column(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Input of a column-parallel layer (Megatron's f, and its g-bar under sequence parallelism).

    Forward: all-gather of the sequence under sequence parallelism, else identity.
    Backward: reduce-scatter under sequence parallelism, else all-reduce.
    """
    if tp.size == 1:
        return x
    function: Any = (
        _AllGatherForwardReduceScatterBackward if tp.sequence_parallel else _IdentityForwardAllReduceBackward
    )
    return function.apply(x, tp)  # type: ignore[no-any-return]


def leave_row(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Output of a row-parallel layer, the conjugate of `enter_column`.

    Forward: reduce-scatter of the partial sums under sequence parallelism, else all-reduce. Backward: all-gather of the
    sequence under sequence parallelism, else identity.
    """
    if tp.size == 1:
        return x
    function: Any = (
        _ReduceScatterForwardAllGatherBackward if tp.sequence_parallel else _AllReduceForwardIdentityBackward
    )
    return function.apply(x, tp)  # type: ignore[no-any-return]


def replicated(parameter: Tensor, tp: TensorParallelGroup) -> Tensor:
    """A parameter that every process holds whole and applies to its own tokens.

    Under sequence parallelism its gradient is all-reduced over the group, before any gradient hook runs.
    """
    return sum_gradient(parameter, tp) if tp.sequence_parallel else parameter


def sum_gradient(parameter: Tensor, tp: TensorParallelGroup) -> Tensor:
    """A parameter that every process holds whole, and of whose gradient each computes a part: those are summed."""
    if tp.size == 1:
        return parameter
    return _IdentityForwardAllReduceBackward.apply(parameter, tp)  # type: ignore[no-any-return,no-untyped-call]
