"""What a label weighs: the same in a step, on whichever replica and in whichever micro-batch it is."""

from typing import cast

import pytest
import torch

from conf.choices import IGNORE_INDEX
from parallel.mesh import ProcessMesh
from parallel.micro_batch import MicroBatch, label_weight
from tests.worlds import Worlds


def weight_with(counted: list[int]) -> float:
    """counted: labels of each replica, all of them in the second of its two micro-batches of 6 tokens."""
    from tests.worlds import mesh_of

    mesh = cast(ProcessMesh, mesh_of(1, 1))
    labels = torch.full((2, 6), IGNORE_INDEX)
    labels[1, : counted[mesh.dp_rank]] = 7
    step = [MicroBatch(torch.zeros(1, 6, dtype=torch.long), row.unsqueeze(0)) for row in labels]
    return float(label_weight(step, mesh))


@pytest.mark.parametrize(("counted", "weight"), [([6, 6], 2.0), ([5, 0], 24 / 5), ([0, 0], 24.0)])
def test_every_replica_has_the_weight_of_the_whole_step(counted: list[int], weight: float, worlds: Worlds) -> None:
    from tests.parallel import test_micro_batch

    assert worlds(2).run(test_micro_batch.weight_with, counted) == [pytest.approx(weight)] * 2


def test_a_micro_batch_moves_with_all_it_has() -> None:
    ids = torch.arange(6).view(1, 6)
    for positions in (None, ids.int()):
        moved = MicroBatch(ids, ids + 1, positions).to(torch.device("cpu"))
        assert moved.ids.equal(ids) and moved.labels.equal(ids + 1)
        assert moved.positions is None if positions is None else moved.positions.equal(positions)
