"""A node with GPUs: what keeps this process from training on them, and the cores that are close to its own."""

import os
import re
import shutil
import sysconfig
from pathlib import Path

import torch

PROVED_TORCH = "2.13.0"  # the version in requirements.txt, which the tests run with
OLDEST_TORCH = (2, 9)
OLDEST_DRIVERS = {"11": 450, "12": 525, "13": 580}  # CUDA -> driver, from NVIDIA's table of minor-version compatibility

PROC = Path("/proc/driver/nvidia")
PCI = Path("/sys/bus/pci/devices")


def cuda_problem(proc: Path = PROC) -> str | None:
    """Why torch finds no GPU on a node that has some, in one line; None where it finds them or is to use the CPU."""
    gpus = len(list((proc / "gpus").glob("*")))
    wants_cpu = os.environ.get("DS_ACCELERATOR") == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not gpus or wants_cpu or torch.cuda.device_count():
        return None
    if torch.version.cuda is None:
        return (
            f"{gpus} GPUs, and torch {torch.__version__} is built for CPUs; install one that is built for CUDA, or "
            "set DS_ACCELERATOR=cpu to train on the CPU"
        )
    needed = OLDEST_DRIVERS.get(torch.version.cuda.partition(".")[0])
    driver = _driver_version(proc)
    if needed and driver and int(driver.partition(".")[0]) < needed:
        return (
            f"NVIDIA driver {driver} is too old for torch {torch.__version__} with CUDA {torch.version.cuda}, which "
            f"needs {needed} or newer; update the driver, or install a torch for an older CUDA: TORCH=... bash "
            "launch/setup.sh"
        )
    return f"{gpus} GPUs, and torch {torch.__version__} with CUDA {torch.version.cuda} finds none; see nvidia-smi"


def _driver_version(proc: Path) -> str | None:
    path = proc / "version"
    found = re.search(r"Kernel Module.*? (\d+\.[\d.]+)", path.read_text()) if path.is_file() else None
    return found[1] if found else None


def torch_problem() -> str | None:
    """Why this torch cannot be used at all; None where it can."""
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if found >= OLDEST_TORCH:
        return None
    return f"torch {torch.__version__} is too old; use {'.'.join(map(str, OLDEST_TORCH))} or newer"


def torch_warning() -> str | None:
    """What to know about a torch that is not the one that the tests run with; None for that one."""
    found = torch.__version__.partition("+")[0]
    return None if found == PROVED_TORCH else f"torch {found} is not the {PROVED_TORCH} that the tests run with"


def compiler_problem() -> str | None:
    """What Triton lacks to compile its launchers on this node: a C compiler or Python's headers; None where nothing."""
    compiler = os.environ.get("CC") or "gcc"
    if not any(map(shutil.which, (compiler, "gcc", "clang"))):
        return "no C compiler, which Triton compiles with; install gcc, set CC=..., or set kernels=eager"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return f"no {headers}, which Triton compiles with; install Python's headers, or set kernels=eager"
    return None


def bind_to_gpu(device: torch.device, pci: Path = PCI) -> set[int]:
    """Pin this process to the cores of its GPU's NUMA node, of those that it may use; return them, none if unknown.

    A copy to the GPU from another node's memory crosses the link between the processors.
    """
    if device.type != "cuda" or not hasattr(os, "sched_setaffinity"):
        return set()
    gpu = torch.cuda.get_device_properties(device)
    listed = pci / f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0" / "local_cpulist"  # type: ignore[attr-defined]
    cores = _cores(listed.read_text()) & os.sched_getaffinity(0) if listed.is_file() else set()
    if cores:
        os.sched_setaffinity(0, cores)
    return cores


def _cores(text: str) -> set[int]:
    """`0-3,8` -> {0, 1, 2, 3, 8}."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return {core for first, _, last in ranges for core in range(int(first), int(last or first) + 1)}
