"""The process mesh: ranks as a grid of pipeline x data x tensor parallelism, on DeepSpeed's topology."""

import contextlib
import io
import os
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator  # type: ignore[import-untyped]
from deepspeed.runtime.pipe.topology import PipelineParallelGrid, PipeModelDataParallelTopology  # type: ignore[import-untyped]


@dataclass(frozen=True)
class TensorParallelGroup:
    """The tensor-parallel group, which every parallel layer takes.

    size: processes in it; rank: this process's in it; group: torch's process group, None at size 1.
    sequence_parallel: outside the column and row layers each process holds `seq / size` tokens (arXiv 2205.05198).
    tensor_parallel_overlap: in the backward pass the input gradient's collective overlaps the weight gradient's matmul.
    regather_sequence: under sequence parallelism a column layer keeps its own tokens for backward and gathers again.
    """

    size: int = 1
    rank: int = 0
    group: Any = None
    sequence_parallel: bool = False
    tensor_parallel_overlap: bool = False
    regather_sequence: bool = False


@dataclass(frozen=True)
class ProcessMesh:
    """This process's coordinates and groups. `grid` is the object DeepSpeed asks for groups (its `mpu`)."""

    rank: int
    size: int
    device: torch.device
    dp_rank: int
    dp_size: int
    pp_rank: int
    pp_size: int
    tp: TensorParallelGroup
    grid: Any = field(repr=False)

    @property
    def is_main(self) -> bool:
        """True on global rank 0, which logs and writes for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every process."""
        dist.barrier()

    def broadcast_object(self, value: Any) -> Any:
        """`value` of rank 0, on every process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather_object(self, value: Any) -> list[Any]:
        """`value` of every process, by rank, on every process."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def any_rank(self, flag: bool) -> bool:
        """True where `flag` is true on at least one process."""
        flags = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def all_reduce_bandwidth(self, megabytes: int = 64) -> float:
        """Bus bandwidth in GB/s of an all-reduce over all processes, as nccl-tests counts it; infinite for one."""
        values = torch.ones(megabytes * 2**20 // 4, device=self.device)
        best = float("inf")
        for _ in range(3):
            self.barrier()
            start = time.perf_counter()
            dist.all_reduce(values)
            values[0].item()  # waits for the device
            best = min(best, time.perf_counter() - start)
        moved = 2 * (self.size - 1) / self.size * values.numel() * 4
        return moved / best / 1e9 if self.size > 1 else float("inf")

    def broadcast_from_last_pipeline_stage(self, value: torch.Tensor | None) -> torch.Tensor:
        """`value` of the last pipeline stage, on every pipeline stage; the others pass None."""
        if self.pp_size == 1:
            assert value is not None
            return value
        box: list[Any] = [None if value is None else value.cpu()]
        source = self.grid.stage_to_global(self.pp_size - 1)
        dist.broadcast_object_list(box, src=source, group=self.grid.get_pipe_parallel_group())
        return torch.as_tensor(box[0])

    def all_reduce_dp(self, value: torch.Tensor) -> torch.Tensor:
        """Sum of `value` over the replicas (same shape), in place."""
        dist.all_reduce(value, group=self.grid.get_data_parallel_group())
        return value


def build_mesh(
    tp_size: int = 1,
    pp_size: int = 1,
    sequence_parallel: bool = False,
    tensor_parallel_overlap: bool = False,
    regather_sequence: bool = False,
) -> ProcessMesh:
    """Arrange all processes in a mesh. Neighbouring ranks form tensor-parallel groups, then data, then pipeline.

    Every process calls it. Errors: ValueError where the sizes do not divide the number of processes.
    """
    size = dist.get_world_size()
    if size % (tp_size * pp_size):
        raise ValueError(f"{size} processes cannot be cut into tensor {tp_size} x pipeline {pp_size}")
    topology = PipeModelDataParallelTopology(num_pp=pp_size, num_mp=tp_size, num_dp=size // (tp_size * pp_size))
    with contextlib.redirect_stdout(io.StringIO()):
        grid = PipelineParallelGrid(topology=topology)
    tp = TensorParallelGroup(
        size=tp_size,
        rank=grid.get_slice_parallel_rank(),
        group=grid.get_slice_parallel_group() if tp_size > 1 else None,
        sequence_parallel=sequence_parallel and tp_size > 1,
        tensor_parallel_overlap=tensor_parallel_overlap and tp_size > 1,
        regather_sequence=regather_sequence and sequence_parallel and tp_size > 1,
    )
    return ProcessMesh(
        rank=dist.get_rank(),
        size=size,
        device=local_device(int(os.environ["LOCAL_RANK"])),
        dp_rank=grid.get_data_parallel_rank(),
        dp_size=grid.get_data_parallel_world_size(),
        pp_rank=grid.get_pipe_parallel_rank(),
        pp_size=pp_size,
        tp=tp,
        grid=grid,
    )


def single_process_mesh() -> ProcessMesh:
    """A mesh of this process alone, without a process group: for inference on one device."""
    return ProcessMesh(0, 1, local_device(0), 0, 1, 0, 1, TensorParallelGroup(), grid=None)


def local_device(local_rank: int) -> torch.device:
    """The device of the process `local_rank` of this node, made the current one.

    A process that sees one GPU uses that: Slurm can show each task its own, as the only one, whatever its rank.
    """
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        return torch.device("cpu")
    index = 0 if accelerator.device_count() == 1 else local_rank
    accelerator.set_device(index)
    return torch.device(accelerator.device_name(index))
