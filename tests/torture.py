"""A small run that is killed, stopped, hung, damaged and cut anew at random, and must end like one that was left alone.

`python -m tests.torture --minutes 20` disturbs a run with a random fault after a random number of steps until the time
is up, and lets it end. Then it trains once undisturbed, passing over the same samples where gradients became NaN. While
the layout stays, the weights must be the same bit for bit; with `--layouts` it changes between tries, and they must be
within 1e-4. Prints what was done, and the goodput: the share of wall time that went into steps which were kept.
`--seed` repeats the faults; `--faults inject_nan+kill_a_rank,fill_the_disk` makes these, in this order, those that `+`
joins in one try; after the last the run is left to end. CI runs a short one (tests/test_torture.py).
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from safetensors.torch import load_file

from conf.run_folder import newest_step, read_metrics, read_records
from tests.train.test_loop import OTHER_STAGES, ROOT, command, flip, ranks, write_corpora

LAYOUTS = [
    "layout.zero_stage=1",
    "layout.zero_stage=3",
    "layout.tensor_parallel_size=2",
    "layout.pipeline_parallel_size=2",
]
# So that minutes hold many faults. After one bad step the run goes back, as the undisturbed run can be made to.
QUICK = ["health.hang_seconds=10", "health.bad_steps=1", "health.rewinds=1000", "cluster.lock_seconds=3"]
QUICK += ["cluster.restarts=3", "tracking.wandb_seconds=1"]
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


def kill_a_rank(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a node that loses power."""
    chance.choice(ranks(process)).kill()


def kill_the_launcher(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As an administrator who kills what is on top."""
    process.kill()


def stop_a_rank(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a GPU that hangs."""
    chance.choice(ranks(process)).send_signal(signal.SIGSTOP)


def ask_to_stop(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a scheduler that needs the machine."""
    process.send_signal(chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))


def inject_nan(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a fault of a device's arithmetic: one rank's gradient, once. The run goes back by itself, and goes on."""
    chance.choice(ranks(process)).send_signal(signal.SIGUSR2)
    before = len(gaps(run))
    for _ in range(600):  # not by the clock, which jumps where a virtual machine is halted
        if len(gaps(run)) > before:
            return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise AssertionError("a NaN gradient was not noticed")


def fill_the_disk(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a disk without room for one rank's next file: the save fails, in one line, and no checkpoint is lost."""
    before = sorted(path.name for path in run.glob("stages/nl/checkpoints/step_????????"))
    those = ranks(process)
    chance.choice(those).rlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    psutil.wait_procs(those, 120)
    if before and not list(run.glob("stages/nl/checkpoints/step_????????")):
        raise AssertionError(f"a full disk cost the checkpoints {before}")


def launch_again(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a person who forgot that it runs; the first goes on."""
    again = subprocess.run(process.args, cwd=ROOT, capture_output=True, text=True, check=False)  # type: ignore[call-overload]
    if again.returncode != 2 or not re.search("is under way|is being trained", again.stderr):
        raise AssertionError(f"a second launch was not refused: {again.returncode} {again.stderr}")
    process.send_signal(signal.SIGTERM)


def damage_a_checkpoint(process: subprocess.Popen[str], run: Path, chance: random.Random) -> None:
    """As a disk that changes a byte: the newest checkpoint, once nobody writes."""
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    newest = sorted(run.glob("stages/*/checkpoints/step_????????"), key=lambda path: path.stat().st_mtime)
    if len(newest) > 1 and newest[-1].parent == newest[-2].parent:
        flip(chance.choice(sorted(newest[-1].rglob("*.safetensors"))))


FAULTS: list[Callable[[subprocess.Popen[str], Path, random.Random], None]] = [
    *(kill_a_rank, kill_the_launcher, stop_a_rank, ask_to_stop, launch_again, damage_a_checkpoint),
    *(inject_nan, fill_the_disk),
]


def main(words: list[str] | None = None) -> int:
    """Train, disturb, compare; the exit code is 1 where the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long faults are made")
    parser.add_argument("--faults", help="names of faults to make, in order, instead of random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of the run")
    parser.add_argument("--layouts", action="store_true", help="another layout at every try")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        return torture(arguments, Path(folder))


def torture(arguments: argparse.Namespace, folder: Path) -> int:
    """Run the disturbed and the undisturbed run in `folder`."""
    write_corpora(folder)
    (folder / "sitecustomize.py").write_text(NAN)
    own = ["stage=nl", f"stages.nl.steps={arguments.steps}", "run.save_every=3", *QUICK]
    still, run = folder / "runs/still", folder / "runs/disturbed"
    commands = {
        path: [word for word in command(folder, path.name, *own) if not word.startswith(OTHER_STAGES)]
        for path in (still, run)
    }
    made, wall = disturb(arguments, commands[run], folder, run)
    rows = [row for row in read_metrics(run) if "loss" in row]
    trained = sum(row["step_seconds"] for row in rows)
    pass_over_the_same(still, run)
    subprocess.run(commands[still], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    off = difference(still, run)
    print(f"{made} faults; goodput {trained / wall:.1%} of {wall:.0f} s; weights differ by {off:g}")
    steps = [row["step"] for row in rows]
    if steps != list(range(1, arguments.steps + 1)):
        print(f"error: the steps recorded are {steps}")
        return 1
    return 0 if off <= (1e-4 if arguments.layouts else 0.0) else 1


def disturb(arguments: argparse.Namespace, words: list[str], folder: Path, run: Path) -> tuple[int, float]:
    """Launch the run until it is finished, with a fault in each try: (faults made, seconds)."""
    chance, began, made, code = random.Random(arguments.seed), time.monotonic(), 0, -1
    names = {fault.__name__: fault for fault in FAULTS}
    given = (
        [[names[name] for name in each.split("+")] for each in arguments.faults.split(",")] if arguments.faults else []
    )
    tries = 0
    while code != 0:
        if given:
            faults = given[tries] if tries < len(given) else []
        else:
            faults = [chance.choice(FAULTS)] if time.monotonic() < began + 60 * arguments.minutes else []
        layout = [chance.choice(LAYOUTS)] if arguments.layouts else []
        offline = tries == 1 if given else chance.random() < 0.3
        with socket.socket() as refuses:  # a port that nobody listens on
            refuses.bind(("127.0.0.1", 0))
            server = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{refuses.getsockname()[1]}"}
            variables = {**os.environ, "PYTHONPATH": str(folder), **(server if offline else {})}
            own = [*words, *layout, *(["tracking.wandb=true"] if offline else [])]
            left, stops = chance.randrange(2, 5 if given else 12), tries + 1 != len(given)
            code = one_try(own, variables, run, faults, left, chance, stops)
        if code == 2:  # what the killed launcher held is not yet seen to be left
            time.sleep(1)
            continue
        made, tries = made + len(faults), tries + 1
        what = " and ".join(fault.__name__ for fault in faults) or "left alone"
        what = ", ".join([what, *(["W&B down"] if offline else []), *layout])
        print(f"{time.monotonic() - began:6.0f} s  {what}: exit code {code}", flush=True)
        if not faults and code != 0:
            raise AssertionError("left alone, it does not end")
        if code == 0 and tries < len(given):
            raise AssertionError(f"the run ended before all of {arguments.faults} could be made; give it more --steps")
    return made, time.monotonic() - began


def gaps(run: Path) -> list[list[int]]:
    """The samples that the run has passed over."""
    events = read_records(run / "stages/nl/health.jsonl")
    return [event["samples"] for event in events if event["event"] == "rewind" and event["samples"]]


def pass_over_the_same(still: Path, run: Path) -> None:
    """Let the run in `still`, which has not begun, pass over the samples that `run` has passed over."""
    (still / "stages/nl").mkdir(parents=True)
    shutil.copy(run / "config.yaml", still)
    rewinds = [{"step": None, "event": "rewind", "what": "as the other", "samples": samples} for samples in gaps(run)]
    (still / "stages/nl/health.jsonl").write_text("".join(json.dumps(event) + "\n" for event in rewinds))


def stop_when_it_went_on(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until the launch has ended, or has trained some steps more by itself, and ask it to stop then."""
    before, until = newest_step(run).get("step", 0), time.monotonic() + 300
    while process.poll() is None and newest_step(run).get("step", 0) < before + 3 and time.monotonic() < until:
        time.sleep(0.2)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)


def one_try(
    words: list[str],
    variables: dict[str, str],
    run: Path,
    faults: list[Callable[[subprocess.Popen[str], Path, random.Random], None]],
    left: int,
    chance: random.Random,
    stops: bool,
) -> int:
    """Launch the run, make the faults when it has said `left` lines of steps, and return the launch's exit code.

    stops: whether it is asked to stop when it goes on by itself.
    """
    process = subprocess.Popen(
        words, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    family = psutil.Process(process.pid)
    children: list[psutil.Process] = []
    for line in process.stdout:
        left -= line.startswith("nl ")
        if left == 0 and faults:
            drain = threading.Thread(target=process.stdout.read, daemon=True)
            drain.start()
            children = family.children(recursive=True)
            for fault in faults:
                fault(process, run, chance)
            if stops:
                stop_when_it_went_on(process, run)
            break
    code = process.wait(300)
    psutil.wait_procs(children, 60)
    alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    if alive:
        raise AssertionError(f"left behind: {alive}")
    return code


def difference(one: Path, other: Path) -> float:
    """The largest difference of a weight between two runs."""
    largest = 0.0
    for path in sorted((one / "stages/nl/weights").glob("*.safetensors")):
        theirs = load_file(other / "stages/nl/weights" / path.name)
        for name, value in load_file(path).items():
            largest = max(largest, float((value - theirs[name]).abs().max()))
    return largest


if __name__ == "__main__":
    sys.exit(main())
