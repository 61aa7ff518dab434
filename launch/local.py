"""This machine: one process per GPU, or a few on the CPU, through the deepspeed launcher."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys

from conf.schema import Cluster, Layout

CPU_PROCESSES = 2  # on a machine without a GPU, so that a laptop runs what a cluster runs


def count_gpus() -> int:
    """GPUs this process may use, without torch: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def world_size(cluster: Cluster, layout: Layout) -> int:
    """Processes that a job stands for here: what the cluster or the layout says, else one per GPU, else a few."""
    replicas = layout.data_parallel_size or 0
    needed = layout.tensor_parallel_size * layout.pipeline_parallel_size * replicas
    per_node = cluster.processes_per_node or needed // cluster.nodes or count_gpus() or CPU_PROCESSES
    return cluster.nodes * per_node


def train_command(overrides: list[str], processes: int) -> list[str]:
    """The deepspeed launcher's command line for `processes` ranks of `python -m train`.

    It is the part of the launcher that runs on each node: the part before it only finds nodes, and dies of a SIGTERM
    without telling the ranks.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(processes))}).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", "--quiet", f"--world_info={world}"]
    address = ["--master_addr=127.0.0.1", f"--master_port={port}"]
    return [*launcher, *address, "--no_local_rank", "--module", "train", *overrides]


def environment(processes: int) -> dict[str, str]:
    """This environment; without a GPU DeepSpeed is told so, and the cores are shared among the processes."""
    if count_gpus():
        return dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ}
