"""Which CPU cores a process computes on. Loaded before torch, which starts a thread for each core it finds."""

import os


def bind_cores() -> None:
    """Without GPUs, keep each of a machine's processes to cores of its own, so that they do not chase each other.

    Slurm binds the processes it starts; more processes than cores share them in turn.
    """
    if (
        os.environ.get("DS_ACCELERATOR") != "cpu"
        or "SLURM_PROCID" in os.environ
        or not hasattr(os, "sched_setaffinity")
    ):
        return
    rank, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_SIZE", "1"))
    os.sched_setaffinity(0, own_cores(sorted(os.sched_getaffinity(0)), rank, size))


def own_cores(cores: list[int], rank: int, size: int) -> list[int]:
    """The `rank`-th of `size` equal shares of `cores`; one core, shared, where there are fewer cores than processes."""
    if size > len(cores):
        return [cores[rank % len(cores)]]
    return cores[rank * len(cores) // size : (rank + 1) * len(cores) // size]
