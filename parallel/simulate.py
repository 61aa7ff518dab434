"""A simulated mesh: this process as any rank of any world size, on torch's fake process group (collectives do nothing).

With meta tensors a laptop runs the program of one of 512 GPUs, and `collectives` records what it would send.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.comm import comm as deepspeed_comm  # type: ignore[import-untyped]
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology  # type: ignore[import-untyped]
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from parallel.mesh import ProcessMesh, TensorParallelGroup


@dataclass(frozen=True)
class Collective:
    """One collective call. kind: all-reduce, all-gather or reduce-scatter; bytes: of the whole tensor."""

    kind: str
    bytes: int


@contextmanager
def simulated_mesh(
    rank: int,
    size: int,
    tp_size: int = 1,
    pp_size: int = 1,
    sequence_parallel: bool = False,
    tensor_parallel_overlap: bool = False,
    regather_sequence: bool = False,
) -> Iterator[ProcessMesh]:
    """The mesh that `parallel.mesh.build_mesh` gives `rank` of `size` processes, on the meta device, without `grid`.

    Errors: ValueError where the sizes do not divide `size`, RuntimeError where a real process group is initialised.
    """
    if size % (tp_size * pp_size):
        raise ValueError(f"{size} processes cannot be cut into tensor {tp_size} x pipeline {pp_size}")
    if dist.is_initialized():
        raise RuntimeError("a process group is initialised here; a simulated mesh needs a process without one")
    dp_size = size // (tp_size * pp_size)
    topology = PipeModelDataParallelTopology(num_pp=pp_size, num_mp=tp_size, num_dp=dp_size)
    place = topology.get_coord(rank)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        sharing = next((ranks for ranks in topology.get_axis_comm_lists("model") if rank in ranks), [rank])
        tp = TensorParallelGroup(
            size=tp_size,
            rank=place.model,
            group=dist.new_group(sharing) if tp_size > 1 else None,
            sequence_parallel=sequence_parallel and tp_size > 1,
            tensor_parallel_overlap=tensor_parallel_overlap and tp_size > 1,
            regather_sequence=regather_sequence and sequence_parallel and tp_size > 1,
        )
        yield ProcessMesh(
            rank=rank,
            size=size,
            device=torch.device("meta"),
            dp_rank=place.data,
            dp_size=dp_size,
            pp_rank=place.pipe,
            pp_size=pp_size,
            tp=tp,
            grid=None,
        )
    finally:
        dist.destroy_process_group()


def pipeline_stage_rank(pipeline_stage: int, size: int, pp_size: int) -> int:
    """Global rank of tensor rank 0 of data rank 0 in a pipeline stage."""
    return pipeline_stage * (size // pp_size)


# torch.distributed's functions -> what they are, and which argument is the whole tensor
_RECORDED = {
    "all_reduce": ("all-reduce", 0, "tensor"),
    "all_gather": ("all-gather", 0, "tensor_list"),
    "all_gather_into_tensor": ("all-gather", 0, "output_tensor"),
    "reduce_scatter": ("reduce-scatter", 1, "input_list"),
    "reduce_scatter_tensor": ("reduce-scatter", 1, "input"),
}
_REMEMBERED = [("all_gather_function", "all_gather_into_tensor"), ("reduce_scatter_function", "reduce_scatter_tensor")]


@contextmanager
def collectives() -> Iterator[list[Collective]]:
    """Record the collectives that this process starts inside the context, in order, on a real or fake process group.

    Groups of one process are left out: they send nothing.
    """
    record: list[Collective] = []
    places: list[tuple[Any, str, str]] = [(dist, name, name) for name in _RECORDED]
    if deepspeed_comm.cdb is not None:  # DeepSpeed's backend remembers two functions from when it was made
        places += [(deepspeed_comm.cdb, place, name) for place, name in _REMEMBERED]
    before = [getattr(owner, place) for owner, place, _ in places]
    for (owner, place, name), function in zip(places, before, strict=True):
        setattr(owner, place, _recording(function, *_RECORDED[name], record))
    try:
        yield record
    finally:
        for (owner, place, _), function in zip(places, before, strict=True):
            setattr(owner, place, function)


def _recording(
    function: Callable[..., Any], kind: str, position: int, keyword: str, record: list[Collective]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*arguments: Any, **keywords: Any) -> Any:
        whole = keywords[keyword] if keyword in keywords else arguments[position]
        tensors: list[Tensor] = [whole] if isinstance(whole, Tensor) else list(whole)
        if dist.get_world_size(keywords.get("group")) > 1:
            record.append(Collective(kind, sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return function(*arguments, **keywords)

    return recorded
