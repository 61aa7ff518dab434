"""A value that one replica holds and the others do not is found, and its rank and node are named."""

import platform
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from parallel.replicas import odd_ranks
from tests.worlds import Worlds

LAYOUTS = [  # of two processes, and the parameter whose copy is changed on rank 1
    ("layout.zero_stage=1", "1.in_proj.weight"),
    ("layout.zero_stage=0", "3.norm.weight"),
    ("layout.zero_stage=1 layout.tensor_parallel_size=2", "2.norm.bias"),
]


def test_the_minority_is_named_with_its_node() -> None:
    key, other = ("5.ln.weight", None, None), ("5.fc.weight", 0, None)
    ranks = [("n1", [(key, 7), (other, 1)]), ("n1", [(key, 7), (other, 1)]), ("n2", [(key, 9), (other, 1)])]
    assert odd_ranks(ranks) == "rank 2 on n2 does not hold what the other replicas hold of 5.ln.weight"
    assert odd_ranks(ranks[:2]) is None
    assert (
        odd_ranks(ranks[1:]) == "rank 0 on n1, rank 1 on n2 does not hold what the other replicas hold of 5.ln.weight"
    )


def flipped(layout: str, name: str) -> tuple[str | None, str | None]:
    """What is found after a step, and after one bit of a parameter has changed on rank 1."""
    from parallel.replicas import compare_replicas
    from tests.parity.cases import engine_of, mesh_for, micro_batches, settings_of

    settings = settings_of(layout.split())
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    engine.set_lr(0.01)
    engine.train_batch(micro_batches(0, settings, mesh))
    before = compare_replicas(engine)
    if mesh.rank == 1:
        parameter = dict(engine.deepspeed.module.named_parameters())[name]
        parameter.data.view(-1).view(torch.int32)[0] ^= 1
    after = compare_replicas(engine)
    engine.destroy()
    return before, after


@pytest.mark.parametrize(("layout", "name"), LAYOUTS)
def test_a_flipped_bit_is_found(layout: str, name: str, worlds: Worlds) -> None:
    from tests.parallel import test_replicas

    node = platform.node()
    for before, after in worlds(2).run(test_replicas.flipped, layout, name):
        assert before is None
        assert after == (f"rank 0 on {node}, rank 1 on {node} does not hold what the other replicas hold of {name}")


def checksum_devices(layout: str) -> set[str]:
    """Where checksums are as they are put together, where torch's device without memory stands for a GPU."""
    from parallel.replicas import checksums
    from tests.parity.cases import engine_of, mesh_for, settings_of

    settings = settings_of(layout.split())
    engine = engine_of(settings, mesh_for(settings))
    engine.mesh = replace(engine.mesh, device=torch.device("meta"))
    devices: set[str] = set()

    def stack(sums: list[torch.Tensor]) -> torch.Tensor:
        devices.update(each.device.type for each in sums)
        return torch.zeros(len(sums))

    with patch("torch.stack", stack):
        assert len(checksums(engine)) > len(devices) > 0
    engine.destroy()
    return devices


def test_checksums_of_offloaded_parameters_are_put_together_on_the_device(worlds: Worlds) -> None:
    """ZeRO-3 keeps adapters on the host then, and the frozen weights that are small on the GPU."""
    from tests.parallel import test_replicas

    layout = "finetune=lora layout.zero_stage=3 layout.offload=parameters"
    assert worlds(1).run(test_replicas.checksum_devices, layout) == [{"meta"}]
