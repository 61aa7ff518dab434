"""Each collective's result and gradient, beside the sum, slice or join that it stands for."""

import pytest
import torch
from torch import Tensor

from parallel.collectives import (
    enter_column,
    gather_sequence,
    gather_vocabulary,
    leave_row,
    reduce_scatter_sequence,
    replicated,
    start_leave_column,
)
from parallel.mesh import TensorParallelGroup
from tests.worlds import Worlds, mesh_of

SIZE = 2


def values() -> list[Tensor]:
    """`[batch, seq, hidden]` of every process, known to all."""
    generator = torch.Generator().manual_seed(5)
    return list(torch.randn(SIZE, 3, 4, 6, generator=generator).unbind())


def check_results_and_gradients(sequence_parallel: bool) -> None:
    """A case: every collective on this process, against what is worked out from all processes' values."""
    tp = mesh_of(SIZE, 1, sequence_parallel, False).tp
    every, rank = values(), tp.rank
    total, own = sum(every), slice(2 * rank, 2 * rank + 2)  # this process's part of the sequence
    joined = torch.cat(every, dim=1)
    torch.testing.assert_close(gather_sequence(every[rank], tp), joined)
    torch.testing.assert_close(reduce_scatter_sequence(every[rank], tp), total[:, own])  # type: ignore[index]
    logits = gather_vocabulary(every[rank][:, 0], tp)
    assert logits.equal(torch.cat([value[:, 0] for value in every], dim=-1))
    summed = total[:, own] if sequence_parallel else total  # type: ignore[index]
    torch.testing.assert_close(start_leave_column(every[rank].clone(), tp)(), summed)

    x = every[rank].clone().requires_grad_()
    left = leave_row(x, tp)
    torch.testing.assert_close(left, summed)
    left.backward(left.detach() * (rank + 1))
    whole = [(total[:, 2 * r : 2 * r + 2] if sequence_parallel else total) * (r + 1) for r in range(SIZE)]  # type: ignore[index]
    expected = torch.cat(whole, dim=1) if sequence_parallel else whole[rank]
    torch.testing.assert_close(x.grad, expected)

    x = every[rank].clone().requires_grad_()
    entered = enter_column(x, tp)
    torch.testing.assert_close(entered, joined if sequence_parallel else every[rank])
    gradients = [torch.full_like(entered, float(r + 1)) for r in range(SIZE)]
    entered.backward(gradients[rank])
    torch.testing.assert_close(x.grad, torch.full_like(x, 3.0), msg="the sum of the processes' gradients")

    parameter = torch.ones(6, requires_grad=True)
    (replicated(parameter, tp) * (rank + 1)).sum().backward()
    torch.testing.assert_close(parameter.grad, torch.full((6,), 3.0 if sequence_parallel else rank + 1.0))


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_results_and_gradients(worlds: Worlds, sequence_parallel: bool) -> None:
    worlds(SIZE).run(check_results_and_gradients, sequence_parallel)


def test_alone_nothing_is_sent() -> None:
    x, alone = torch.randn(2, 3, 4), TensorParallelGroup()
    for function in (enter_column, leave_row, replicated, gather_vocabulary):
        assert function(x, alone) is x
