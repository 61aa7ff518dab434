"""Runs on this machine: one process per GPU, or a few on the CPU, through the deepspeed launcher."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys

from conf.schema import ClusterConfig, LayoutConfig


def count_gpus() -> int:
    """GPUs this process may use, without torch: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def world_size(cluster: ClusterConfig, layout: LayoutConfig) -> int:
    """Number of processes: as the cluster or the layout says, else one per GPU, else `cluster.cpu_processes`."""
    replicas = layout.data_parallel_size or 0
    needed = layout.tensor_parallel_size * layout.pipeline_parallel_size * replicas
    per_node = cluster.processes_per_node or needed // cluster.nodes or count_gpus() or cluster.cpu_processes
    return cluster.nodes * per_node


def free_port() -> int:
    """A TCP port that is free at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def train_command(
    overrides: list[str], slots: dict[str, int], address: str = "127.0.0.1", port: int | None = None, node: str = "0"
) -> list[str]:
    """The deepspeed launcher's command line on one of the hosts for `python -m train` with `overrides`.

    slots: host -> its processes, in the order of their ranks. node: index of this host, or what a shell replaces by it.
    This is `deepspeed.launcher.launch`, which runs on each host. The `deepspeed` command above it dies of a SIGTERM
    without telling the ranks, and has a shell parse the overrides a second time.
    """
    world = {host: list(range(count)) for host, count in slots.items()}
    encoded = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={encoded}"]
    placement = [
        "--log_level=critical",
        f"--node_rank={node}",
        f"--master_addr={address}",
        f"--master_port={port or free_port()}",
    ]
    return [*launcher, *placement, "--no_local_rank", "--module", "train", *overrides]


def environment(processes: int) -> dict[str, str]:
    """Environment variables for `processes` on this machine: without a GPU, DeepSpeed's CPU mode and OpenMP threads."""
    if count_gpus():
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, cores // processes))}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}
