"""`python -m train`: one rank of a run."""

import os
import sys
import warnings

from conf.command_line import Command, run_command
from conf.compose import compose_settings
from conf.run_lock import end_with_parent
from train.logs import log_failure
from train.stop import StopSignal
from train.watchdog import watch_start

COMMAND = Command(
    program="python -m train",
    usage="[GROUP=CHOICE ...] [KEY=VALUE ...]",
    summary="Trains the stages of a run, as one of its processes. `python -m launch` prepares the data and starts "
    "as many processes as the settings need, with these arguments; without a launcher this is a run of one process.",
    examples=(
        "python -m train --cfg job model=16b stage=mono",
        "python -m train experiment=quickstart layout.micro_batch_size=8",
    ),
    groups=True,
)


def main(argv: list[str]) -> int:
    """Train the run that `argv` describes and return the exit code (conf/exit_codes.py)."""
    return run_command(run_rank, argv, COMMAND)


def run_rank(argv: list[str]) -> int:
    """Run this process's rank to the end of the run, or print the settings."""
    stop = StopSignal()
    if "RANK" in os.environ:  # no launcher, no rank: it saves itself as its launcher dies
        end_with_parent()
    bind_cores()
    _, overrides = COMMAND.split_flags(argv)
    settings = compose_settings(overrides, int(os.environ.get("WORLD_SIZE", "1")))
    watchdog = watch_start(settings)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed's calls
    from train.loop import train  # torch and DeepSpeed are loaded only for settings that can run

    try:
        with log_failure():
            return train(settings, stop, watchdog)
    finally:
        if watchdog is not None:
            watchdog.close()


def bind_cores() -> None:
    """On a machine without GPUs, pin each process to cores of its own, so that they do not compete for the same ones.

    Slurm pins the processes it starts itself. Where there are more processes than cores, they share them in turn.
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
