"""Which device a process uses, and a mesh of one process; larger meshes are tests/parity's."""

from types import SimpleNamespace

import pytest
import torch

from parallel import mesh
from parallel.mesh import local_device, single_process_mesh


@pytest.mark.parametrize(
    ("visible", "local_rank", "index"),
    [(8, 0, 0), (8, 5, 5), (1, 0, 0), (1, 3, 0)],  # the last: Slurm shows each task its own GPU only
)
def test_a_process_uses_the_gpu_of_its_rank_or_the_only_one(
    visible: int, local_rank: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[int] = []
    gpus = SimpleNamespace(
        device_name=lambda index=None: "cuda" if index is None else f"cuda:{index}",
        device_count=lambda: visible,
        set_device=current.append,
    )
    monkeypatch.setattr(mesh, "get_accelerator", lambda: gpus)
    assert local_device(local_rank) == torch.device("cuda", index)
    assert current == [index]


def test_a_single_process_needs_no_group() -> None:
    alone = single_process_mesh()
    assert alone.is_main and (alone.size, alone.tp.size, alone.pp_size) == (1, 1, 1)
    assert alone.all_gather_object("mine") == ["mine"]
