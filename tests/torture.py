"""A small run that is killed, stopped, hung, damaged and cut anew at random, and must end like one that was left alone.

`python -m tests.torture --minutes 20` trains once undisturbed, then disturbs the same run with a random fault after a
random number of steps until the time is up, and lets it end. While the layout stays, its weights must be those of the
undisturbed run, bit for bit; with `--layouts` it changes between tries, and they must be within 1e-4. Prints what was
done, and the goodput: the share of wall time that went into steps which were kept. `--seed` repeats the faults.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from safetensors.torch import load_file

from conf.run_folder import read_metrics
from tests.train.test_loop import OTHER_STAGES, ROOT, command, flip, ranks, write_corpora

LAYOUTS = [
    "layout.zero_stage=1",
    "layout.zero_stage=3",
    "layout.tensor_parallel_size=2",
    "layout.pipeline_parallel_size=2",
]
QUICK = ["health.hang_seconds=10", "cluster.lock_seconds=3", "cluster.restarts=3"]  # so that minutes hold many faults


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
    *(kill_a_rank, kill_the_launcher, stop_a_rank, ask_to_stop, launch_again, damage_a_checkpoint)
]


def main(words: list[str] | None = None) -> int:
    """Train, disturb, compare; the exit code is 1 where the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long faults are made")
    parser.add_argument("--faults", type=int, default=10**9, help="end after so many as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of the run")
    parser.add_argument("--layouts", action="store_true", help="another layout at every try")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        return torture(arguments, Path(folder))


def torture(arguments: argparse.Namespace, folder: Path) -> int:
    """Run the undisturbed and the disturbed run in `folder`."""
    write_corpora(folder)
    own = ["stage=nl", f"stages.nl.steps={arguments.steps}", "run.save_every=3", *QUICK]
    still, run = folder / "runs/still", folder / "runs/disturbed"
    commands = {
        path: [word for word in command(folder, path.name, *own) if not word.startswith(OTHER_STAGES)]
        for path in (still, run)
    }
    subprocess.run(commands[still], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    chance, began, made = random.Random(arguments.seed), time.monotonic(), 0
    ends = began + 60 * arguments.minutes
    code = -1
    while code != 0:
        layout = [chance.choice(LAYOUTS)] if arguments.layouts else []
        disturb = time.monotonic() < ends and made < arguments.faults
        fault = chance.choice(FAULTS) if disturb else None
        code = one_try([*commands[run], *layout], run, fault, chance)
        if code == 2:  # what the killed launcher held is not yet seen to be left
            time.sleep(1)
            continue
        made += fault is not None
        print(
            f"{time.monotonic() - began:6.0f} s  {fault.__name__ if fault else 'left alone'}: exit code {code}",
            flush=True,
        )
        if fault is None and code != 0:
            print("error: left alone, it does not end")
            return 1
    wall = time.monotonic() - began
    rows = [row for row in read_metrics(run) if "loss" in row]
    trained = sum(row["step_seconds"] for row in rows)
    off = difference(still, run)
    print(f"{made} faults; goodput {trained / wall:.1%} of {wall:.0f} s; weights differ by {off:g}")
    steps = [row["step"] for row in rows]
    if steps != list(range(1, arguments.steps + 1)):
        print(f"error: the steps recorded are {steps}")
        return 1
    return 0 if off <= (1e-4 if arguments.layouts else 0.0) else 1


def one_try(
    words: list[str],
    run: Path,
    fault: Callable[[subprocess.Popen[str], Path, random.Random], None] | None,
    chance: random.Random,
) -> int:
    """Launch the run, make the fault some steps later, and return the launch's exit code."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    family = psutil.Process(process.pid)
    left = chance.randrange(2, 12)
    for line in process.stdout:
        left -= line.startswith("nl ")
        if left == 0 and fault is not None:
            drain = threading.Thread(target=process.stdout.read, daemon=True)
            drain.start()
            children = family.children(recursive=True)
            fault(process, run, chance)
            break
    else:
        children = []
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
