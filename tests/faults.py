"""What `tests.torture` does to a run: each fault is a function of one try."""

import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from conf.exit_codes import INTERRUPTED
from conf.run_folder import newest_step, read_records
from tests.train.test_loop import ROOT, flip, ranks
from tests.wandb_server import WandbServer

# Put before the ranks' own modules: SIGUSR2 makes the next gradient of one parameter NaN, on this rank alone.
NAN = """
import signal

def receive(number, frame):
    import gc, torch
    def poison(gradient):
        handle.remove()
        return gradient * float("nan")
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, torch.nn.Parameter) and each.requires_grad]
    handle = found[0].register_hook(poison) if found else None

signal.signal(signal.SIGUSR2, receive)
"""


@dataclass(frozen=True)
class Try:
    """One launch of the run, its folder, and W&B's server."""

    process: subprocess.Popen[str]
    run: Path
    server: WandbServer
    chance: random.Random


def gaps(run: Path) -> list[list[int]]:
    """The samples that the run has passed over."""
    events = read_records(run / "stages/nl/health.jsonl")
    return [event["samples"] for event in events if event["event"] == "rewind" and event["samples"]]


def stop_when_it_went_on(one: Try) -> None:
    """Wait until the launch has ended, or has trained some steps more by itself, and ask it to stop then."""
    before, until = newest_step(one.run).get("step", 0), time.monotonic() + 300
    while one.process.poll() is None and newest_step(one.run).get("step", 0) < before + 3 and time.monotonic() < until:
        time.sleep(0.2)
    if one.process.poll() is None:
        one.process.send_signal(signal.SIGTERM)


def kill_a_rank(one: Try) -> None:
    """As a node that loses power."""
    one.chance.choice(ranks(one.process)).kill()


def kill_the_launcher(one: Try) -> None:
    """As an administrator who kills what is on top."""
    one.process.kill()


def stop_a_rank(one: Try) -> None:
    """As a GPU that hangs."""
    one.chance.choice(ranks(one.process)).send_signal(signal.SIGSTOP)


def ask_to_stop(one: Try) -> None:
    """As a scheduler that needs the machine."""
    one.process.send_signal(one.chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))


def inject_nan(one: Try) -> None:
    """As a fault of a device's arithmetic: one rank's gradient, once. The run goes back by itself, and goes on."""
    one.chance.choice(ranks(one.process)).send_signal(signal.SIGUSR2)
    before = len(gaps(one.run))
    for _ in range(1500):  # not by the clock, which jumps where a virtual machine is halted
        if len(gaps(one.run)) > before:
            return
        if one.process.poll() is not None:
            break
        time.sleep(0.2)
    raise AssertionError("a NaN gradient was not noticed")


def fill_the_disk(one: Try) -> None:
    """As a disk without room for one rank's next file: the save fails, in one line, and no checkpoint is lost."""
    pattern = "stages/nl/checkpoints/step_????????"
    before = sorted(path.name for path in one.run.glob(pattern))
    those = ranks(one.process)
    one.chance.choice(those).rlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    psutil.wait_procs(those, 300)
    if before and not list(one.run.glob(pattern)):
        raise AssertionError(f"a full disk cost the checkpoints {before}")


def launch_again(one: Try) -> None:
    """As a person who forgot that it runs; the first goes on."""
    again = subprocess.run(one.process.args, cwd=ROOT, capture_output=True, text=True, check=False)  # type: ignore[call-overload]
    if again.returncode != 2 or not re.search("is under way|is being trained", again.stderr):
        raise AssertionError(f"a second launch was not refused: {again.returncode} {again.stderr}")
    one.process.send_signal(signal.SIGTERM)


def damage_a_checkpoint(one: Try) -> None:
    """As a disk that changes a byte: the newest checkpoint, once nobody writes."""
    one.process.send_signal(signal.SIGTERM)
    one.process.wait(300)
    newest = sorted(one.run.glob("stages/*/checkpoints/step_????????"), key=lambda path: path.stat().st_mtime)
    if len(newest) > 1 and newest[-1].parent == newest[-2].parent:
        flip(one.chance.choice(sorted(newest[-1].rglob("*.safetensors"))))


def lose_wandb(one: Try) -> None:
    """As W&B's server that fails, or hangs, while the run trains: that trains on, and saves itself when asked to."""
    one.server.fault = one.chance.choice(["fails", "hangs"])
    stop_when_it_went_on(one)
    if (code := one.process.wait(300)) != INTERRUPTED:
        raise AssertionError(f"the loss of W&B's server cost the run: {code}")


FAULTS: list[Callable[[Try], None]] = [
    *(kill_a_rank, kill_the_launcher, stop_a_rank, ask_to_stop, launch_again, damage_a_checkpoint),
    *(inject_nan, fill_the_disk, lose_wandb),
]
