"""Runs on this machine: one process per GPU, or a few on the CPU, through the deepspeed launcher."""

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys

from conf.choices import ClusterKind
from conf.processes import processes_per_node
from conf.schema import ClusterConfig, LayoutConfig

HERE = "localhost"


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, without torch: CUDA_VISIBLE_DEVICES where it is set, else nvidia-smi's.

    As CUDA reads the variable: indices or UUIDs, of which those after an invalid one (-1) do not count.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        ids = [device.strip() for device in visible.split(",")]
        return list(itertools.takewhile(lambda device: device not in ("", "-1"), ids))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index in range(sum(line.startswith("GPU ") for line in listed.stdout.splitlines()))]


def world_size(cluster: ClusterConfig, layout: LayoutConfig) -> int:
    """Number of processes: as the settings say, else one per GPU, else `cluster.cpu_processes`; of a node of Slurm
    without GPUs one."""
    said = processes_per_node(cluster, layout)
    if cluster.kind is ClusterKind.slurm:  # this machine is none of those that train
        return cluster.nodes * (said or 1)
    return cluster.nodes * (said or len(visible_gpus()) or cluster.cpu_processes)


def free_port() -> int:
    """A TCP port that is free at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def train_command(
    overrides: list[str],
    slots: dict[str, int],
    address: str = "127.0.0.1",
    port: int | None = None,
    node: str = "0",
    module: str = "train",
) -> list[str]:
    """The deepspeed launcher's command line on one of the hosts for `python -m train` with `overrides`.

    slots: host -> its processes, in the order of their ranks; `HERE`: this machine.
    node: index of this host, or what a shell replaces by it.
    A launcher on this machine alone gives its processes the GPUs that CUDA_VISIBLE_DEVICES names, in that order.
    This is `deepspeed.launcher.launch`, which runs on each host. The `deepspeed` command above it dies of a SIGTERM
    without telling the ranks, and has a shell parse the overrides a second time.
    """
    world: dict[str, list[int] | list[str]] = {host: list(range(count)) for host, count in slots.items()}
    if list(slots) == [HERE] and len(gpus := visible_gpus()) >= slots[HERE]:
        world = {HERE: gpus[: slots[HERE]]}  # the launcher sets CUDA_VISIBLE_DEVICES from it
    encoded = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={encoded}"]
    placement = [
        "--log_level=critical",
        f"--node_rank={node}",
        f"--master_addr={address}",
        f"--master_port={port or free_port()}",
    ]
    return [*launcher, *placement, "--no_local_rank", "--module", module, *overrides]


# DeepSpeed's CPU mode. And memory that is freed stays with the process: glibc gives large tensors back to the kernel,
# which clears each page anew as it is touched: a sixth of a step. Its pages are of 2 MiB, which AdamW, norms and copies
# go through 12 to 20% faster.
CPU_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def environment(processes: int, layout: LayoutConfig) -> dict[str, str]:
    """Environment variables for `processes` on this machine: with GPUs also `gpu_environment`."""
    return machine_environment(processes) | (kept(gpu_environment(layout)) if visible_gpus() else {})


def machine_environment(processes: int) -> dict[str, str]:
    """Environment variables that depend on the machine only, this one, which may be one host of several.

    OpenMP threads: each of the machine's `processes` its share of the cores. Without a GPU also `CPU_ENVIRONMENT`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    return kept(threads | ({} if visible_gpus() else CPU_ENVIRONMENT))


def kept(wanted: dict[str, str]) -> dict[str, str]:
    """`wanted`, where a variable that is set already keeps its value."""
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def gpu_environment(layout: LayoutConfig) -> dict[str, str]:
    """Environment variables of a process that trains on a GPU.

    An allocator whose segments grow, so that fewer fragments are lost. Under tensor parallelism one queue to the
    device, so that a collective starts before the products launched after it, as Megatron-LM asks on GPUs before
    Blackwell. ZeRO-2 and 3 overlap on several streams, which one queue would serialise: they keep CUDA's default.
    """
    one_queue = layout.tensor_parallel_size > 1 and layout.zero_stage < 2
    return {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        **({"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if one_queue else {}),
    }
