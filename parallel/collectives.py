"""The collectives between tensor-parallel processes, each named by what it does forward and backward.

Each takes `hidden_states` as `[batch, seq, hidden]`. The idea and the pairs are Megatron-LM's (arXiv 1909.08053 for
f and g, arXiv 2205.05198 for the sequence-parallel pair).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.mesh import TensorParallelGroup

SEQUENCE = 1  # dimension of [batch, seq, hidden] that sequence parallelism shares


def all_reduce(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Sum over the group, out of place, any shape."""
    x = x.contiguous().clone()
    dist.all_reduce(x, group=tp.group)
    return x


def gather_sequence(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """`[batch, seq / size, hidden]` of each process -> `[batch, seq, hidden]`, no gradient."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(tp.size)]
    dist.all_gather(parts, x.contiguous(), group=tp.group)
    return torch.cat(parts, dim=SEQUENCE)


def reduce_scatter_sequence(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Sum `[batch, seq, hidden]` over the group and keep this process's `[batch, seq / size, hidden]`, no gradient."""
    parts = [part.contiguous() for part in x.chunk(tp.size, dim=SEQUENCE)]
    kept = torch.empty_like(parts[tp.rank])
    dist.reduce_scatter(kept, parts, group=tp.group)
    return kept


def gather_vocabulary(logits: Tensor, tp: TensorParallelGroup) -> Tensor:
    """`[batch, vocab / size]` of each process -> `[batch, vocab]`, bit for bit the same on every one, no gradient."""
    if tp.size == 1:
        return logits
    parts = [torch.empty_like(logits, memory_format=torch.contiguous_format) for _ in range(tp.size)]
    dist.all_gather(parts, logits.contiguous(), group=tp.group)
    return torch.cat(parts, dim=-1)


def start_leave_column(gradient: Tensor, tp: TensorParallelGroup) -> Callable[[], Tensor]:
    """Start the backward collective of `enter_column` on `[batch, seq, hidden]`; the returned call waits for it."""
    if tp.sequence_parallel:
        parts = [part.contiguous() for part in gradient.chunk(tp.size, dim=SEQUENCE)]
        result = torch.empty_like(parts[tp.rank])
        work = dist.reduce_scatter(result, parts, group=tp.group, async_op=True)
    else:
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
    """Where the hidden states enter matrices that are cut by columns.

    Forward: the whole sequence on every process (all-gather under sequence parallelism, else nothing).
    Backward: the sum of the processes' gradients (reduce-scatter under sequence parallelism, else all-reduce).
    """
    if tp.size == 1:
        return x
    function: Any = (
        _AllGatherForwardReduceScatterBackward if tp.sequence_parallel else _IdentityForwardAllReduceBackward
    )
    return function.apply(x, tp)  # type: ignore[no-any-return]


def leave_row(x: Tensor, tp: TensorParallelGroup) -> Tensor:
    """Where partial sums leave matrices that are cut by rows: the mirror of `enter_column`."""
    if tp.size == 1:
        return x
    function: Any = (
        _ReduceScatterForwardAllGatherBackward if tp.sequence_parallel else _AllReduceForwardIdentityBackward
    )
    return function.apply(x, tp)  # type: ignore[no-any-return]


def replicated(parameter: Tensor, tp: TensorParallelGroup) -> Tensor:
    """A parameter that every process holds whole and uses on its own tokens only.

    Under sequence parallelism its gradient is the sum over the group, taken before any hook sees it.
    """
    if not tp.sequence_parallel:
        return parameter
    return _IdentityForwardAllReduceBackward.apply(parameter, tp)  # type: ignore[no-any-return,no-untyped-call]
