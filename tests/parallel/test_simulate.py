"""A simulated mesh and the record of what it would send. tests/train/plan compares both with real worlds."""

import pytest
import torch
import torch.distributed as dist

from parallel.collectives import enter_column, leave_row
from parallel.simulate import Collective, collectives, pipeline_stage_rank, simulated_mesh


def test_neighbours_share_matrices_then_data_then_the_pipeline() -> None:
    places = []
    for rank in range(12):
        with simulated_mesh(rank, 12, 2, 3) as mesh:
            places.append((mesh.pp_rank, mesh.dp_rank, mesh.tp.rank))
            assert (mesh.tp.size, mesh.pp_size, mesh.dp_size) == (2, 3, 2)
    assert places == [(pp, dp, tp) for pp in range(3) for dp in range(2) for tp in range(2)]
    assert [pipeline_stage_rank(stage, 12, 3) for stage in range(3)] == [0, 4, 8]
    assert not dist.is_initialized()


def test_sizes_that_do_not_divide_are_refused() -> None:
    with (
        pytest.raises(ValueError, match="12 processes cannot be cut into tensor 5 x pipeline 1"),
        simulated_mesh(0, 12, 5),
    ):
        pass


@pytest.mark.parametrize(
    ("sequence_parallel", "kinds"), [(False, ["all-reduce"]), (True, ["all-gather", "reduce-scatter"])]
)
def test_collectives_are_recorded_with_the_whole_tensor_s_bytes(sequence_parallel: bool, kinds: list[str]) -> None:
    whole = 2 * 8 * 16 * 4
    with simulated_mesh(0, 4, 4, 1, sequence_parallel) as mesh, collectives() as record:
        x = torch.empty(2, 2 if sequence_parallel else 8, 16, device="meta")
        leave_row(enter_column(x, mesh.tp), mesh.tp)
    assert record == [Collective(kind, whole) for kind in kinds]


def test_functions_are_as_before_afterwards() -> None:
    before = dist.all_reduce
    with pytest.raises(ZeroDivisionError), collectives():
        assert dist.all_reduce is not before
        raise ZeroDivisionError
    assert dist.all_reduce is before
