"""The share of a long run's time that trains steps which are kept, from its saves, restarts and failures.

A failure costs what was trained since the last complete checkpoint, on average half the time between two and the time
that one takes to be written, and the restart; saves cost their stalls (Young, CACM 17(9), 1974). How often a GPU fails
is Llama 3's: 419 unexpected interruptions in 54 days on 16,384 H100s (arXiv 2407.21783, section 3.3.4), which also
reports more than 90% of effective training time.
"""

from pathlib import Path
from typing import Any

from conf.run_folder import read_metrics
from conf.save_time import newest_save, save_seconds, write_gb_per_second
from conf.schema import Settings

HOUR = 3600.0
LLAMA3_GPUS, LLAMA3_DAYS, LLAMA3_FAILURES, LLAMA3_GOODPUT = 16_384, 54, 419, 0.90
GPU_HOURS_A_FAILURE = LLAMA3_GPUS * LLAMA3_DAYS * 24 / LLAMA3_FAILURES
RESTARTS = (300.0, 900.0, 1800.0)  # seconds, where no restart is measured: a new node, reading, compiling


def hours_a_failure(gpus: int) -> float:
    """Mean hours between two failures of any of `gpus`, which fail independently, as often as Llama 3's."""
    return GPU_HOURS_A_FAILURE / gpus


def goodput(between: float, stall: float, drain: float, restart: float, hours: float) -> float:
    """Share of wall time that trains steps which are kept, where a failure comes every `hours`.

    Seconds. between: of training between two saves; stall: that training waits for one; drain: from a save's beginning
    to its being on the disk; restart: from a failure to the first new step.
    """
    lost = restart + between / 2 + drain
    return between / (between + stall) * max(0.0, 1 - lost / (hours * HOUR))


def predict_goodput(settings: Settings, gpus: int, step_seconds: float, run: Path) -> dict[str, Any]:
    """The goodput of a run on `gpus`, by what saves and starts of the run in the folder `run` have taken.

    Before its first save: written at `write_gb_per_second`, with training waiting all the while, which is the worst.
    Before its first step: for each of `RESTARTS`.
    """
    save, drain = newest_save(run), save_seconds(settings.model, write_gb_per_second(run), settings.finetune)
    starts = [row["start_seconds"] for row in read_metrics(run) if row.get("start_seconds") is not None]
    between, hours = settings.run.save_every * step_seconds, hours_a_failure(gpus)
    stall = save["stall_seconds"] if save else drain
    restarts = starts[-1:] or RESTARTS
    return {
        "hours_a_failure": hours,
        "seconds_between_saves": between,
        "stall_seconds": stall,
        "drain_seconds": save["drain_seconds"] if save else drain,
        "save_measured": save is not None,
        "restart_measured": bool(starts),
        "by_restart_seconds": {
            f"{restart:.0f}": goodput(between, stall, save["drain_seconds"] if save else drain, restart, hours)
            for restart in restarts
        },
    }
