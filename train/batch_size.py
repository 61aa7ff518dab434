"""`layout.micro_batch_size=auto`: the largest micro-batch that fits the device's memory and fills the global batch."""

import math
import os
from dataclasses import replace

import psutil  # type: ignore[import-untyped]
import torch

from conf.check import data_parallel_size, divisors
from conf.errors import ConfigError
from conf.schema import Settings
from train.hardware import resolve_precision
from train.plan.planner import plan, usable_bytes

GIB = 2**30
CPU_SHARE = 0.8  # of the memory that is free when a run starts; the rest is the data's and the operating system's


def choose_micro_batch_size(settings: Settings, size: int, usable: int) -> int:
    """Sequences of one micro-batch of each of `size` processes, which may fill `usable` bytes of memory.

    It divides each stage's share of a replica, so that the global batch stays what it is. The memory is computed as
    `python -m train.plan` does, on meta tensors: nothing is allocated. Errors: `ConfigError` where not even 1 fits.
    """
    replicas = data_parallel_size(settings, size)
    shares = [stage.global_batch_size // replicas for stage in settings.stages.values()]
    largest = math.gcd(*shares)
    chosen = needed = 0
    for candidate in (number for number in range(1, largest + 1) if largest % number == 0):
        layout = replace(settings.layout, micro_batch_size=candidate)
        needed = max(each.total for each in plan(replace(settings, layout=layout), size))
        if needed > usable:
            break
        chosen = candidate
    if not chosen:
        raise ConfigError(
            f"layout.micro_batch_size=auto: a micro-batch of 1 needs {needed / GIB:.2f} GiB a process, and "
            f"{usable / GIB:.2f} can be filled; use more processes, recompute=full or a larger zero_stage "
            f"(micro-batches could be {divisors(largest)})"
        )
    return chosen


def find_micro_batch_size(settings: Settings) -> int:
    """`choose_micro_batch_size` for this process's device and the processes of its launcher; no group may exist yet."""
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_SIZE", "0"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        usable = usable_bytes(torch.cuda.get_device_properties(0).total_memory / GIB)
    else:
        usable = int(psutil.virtual_memory().available * CPU_SHARE / (local or size))
    precision = resolve_precision(settings.layout.precision, device)
    settings = replace(settings, layout=replace(settings.layout, precision=precision))
    return choose_micro_batch_size(settings, size, usable)
