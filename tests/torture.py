"""A small run that is killed, stopped, hung, damaged and cut anew at random, and must end like one that was left alone.

`python -m tests.torture --minutes 20` disturbs a run with a random fault after a random number of steps until the time
is up, and lets it end. Its schedule is wsd, so that its length is chosen then. Then it trains once undisturbed, passing
over the same samples where gradients became NaN. While the layout stays, the weights must be the same bit for bit; with
`--layouts` it changes between tries, and they must be within 1e-4. W&B's server, which is lost in some tries, must have
every step in the end. Prints what was done (tests/faults.py), and the goodput: the share of wall time that went into
steps which were kept. `--seed` repeats the faults; `--faults inject_nan+kill_a_rank,fill_the_disk` makes these, in this
order, those that `+` joins in one try; in the last one it is left to end. CI runs a short one (tests/test_torture.py).
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
from safetensors.torch import load_file

from conf.resume import newest_checkpoint_step
from conf.run_folder import read_metrics, wandb_id
from tests.faults import FAULTS, NAN, Try, gaps, lose_wandb, stop_when_it_went_on
from tests.train.test_loop import OTHER_STAGES, ROOT, command, write_corpora
from tests.wandb_server import WandbServer, wandb_server

LAYOUTS = ["layout.zero_stage=1", "layout.zero_stage=3"]
LAYOUTS += ["layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2"]
# So that minutes hold many faults. After one bad step the run goes back, as the undisturbed run can be made to.
QUICK = ["health.hang_seconds=30", "health.bad_steps=1", "health.rewinds=1000", "cluster.lock_seconds=3"]
QUICK += ["cluster.restarts=3", "tracking.wandb_seconds=1"]
ENDLESS = 10**6  # optimizer steps, until the time is up
LAST_STEPS, ANNEALED = 40, 10  # steps from the newest checkpoint to the end, and how many of them anneal


def main(words: list[str] | None = None) -> int:
    """Train, disturb, compare; the exit code is 1 where the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long faults are made")
    parser.add_argument("--faults", help="names of faults to make, in order, instead of random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", action="store_true", help="another layout at every try")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder, wandb_server() as server:
        return torture(arguments, Path(folder), server)


def torture(arguments: argparse.Namespace, folder: Path, server: WandbServer) -> int:
    """Run the disturbed and the undisturbed run in `folder`."""
    write_corpora(folder)
    (folder / "sitecustomize.py").write_text(NAN)
    still, run = folder / "runs/still", folder / "runs/disturbed"
    variables = {
        **os.environ,
        "WANDB_API_KEY": "k" * 40,
        "WANDB_BASE_URL": server.url,
        "WANDB_X_SERVICE_WAIT": "300",  # seconds, of `launch sync` too
        "PYTHONPATH": f"{folder}:{ROOT}",
    }
    wall = disturb(arguments, folder, run, variables, server)
    server.fault = None
    rows = [row for row in read_metrics(run) if "loss" in row]
    steps, trained = [row["step"] for row in rows], sum(row["step_seconds"] for row in rows)
    pass_over_the_same(still, run)
    alone = [*words_of(folder, still, steps[-1]), f"run.save_every={ENDLESS}"]
    subprocess.run(alone, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    off = difference(still, run)
    print(f"{steps[-1]} steps; goodput {trained / wall:.1%} of {wall:.0f} s; weights differ by {off:g}")
    sync = [sys.executable, "-m", "launch", "sync", str(run)]
    for _ in range(3):  # W&B's command gives its process 5 s to read the files, which cannot be set
        uploaded = subprocess.run(sync, cwd=folder, env=variables, check=False, stdout=subprocess.DEVNULL)
        if uploaded.returncode == 0:
            break
    curve = sorted(set(server.steps(wandb_id(run.resolve(), "nl"))))
    for what, found in {"recorded": steps, "in W&B": curve}.items():
        if found != list(range(1, steps[-1] + 1)):
            print(f"error: the steps {what} are {found}")
            return 1
    return 0 if off <= (1e-4 if arguments.layouts else 0.0) else 1


def words_of(folder: Path, run: Path, steps: int) -> list[str]:
    """The launch of a run of `steps` steps."""
    own = [f"stages.nl.steps={steps}", "stages.nl.schedule=wsd", f"stages.nl.anneal_steps={ANNEALED}", *QUICK]
    return [word for word in command(folder, run.name, "stage=nl", *own) if not word.startswith(OTHER_STAGES)]


def disturb(
    arguments: argparse.Namespace, folder: Path, run: Path, variables: dict[str, str], server: WandbServer
) -> float:
    """Launch the run until it is finished, with a fault in each try; return the seconds that took."""
    chance, began, tries, code = random.Random(arguments.seed), time.monotonic(), 0, -1
    names, made = {fault.__name__: fault for fault in FAULTS}, Counter[str]()
    given = [[names[name] for name in each.split("+")] for each in (arguments.faults or "").split(",") if each]
    round_: list[Callable[[Try], None]] = []  # every kind comes once before one comes again
    while code != 0:
        round_ = round_ or chance.sample(FAULTS, len(FAULTS))
        faults = round_[-1:] if time.monotonic() < began + 60 * arguments.minutes else []
        if given:
            faults = given[tries] if tries < len(given) else []
        ends = not faults or tries + 1 == len(given)
        layout = [chance.choice(LAYOUTS)] if arguments.layouts else []
        down = tries == 1 if given else bool(faults) and chance.random() < 0.2
        server.fault = chance.choice(["fails", "hangs"]) if down else None
        tracked = ["tracking.wandb=true"] if down or ends or lose_wandb in faults else []
        steps = newest_checkpoint_step(run, "nl") + LAST_STEPS if ends else ENDLESS
        words = [*words_of(folder, run, steps), "run.save_every=3", *layout, *tracked]
        left = chance.randrange(2, 5 if given else 12)
        code = one_try(words, variables, run, server, faults, left, chance, stops=not ends)
        if code == 2:  # what the killed launcher held is not yet seen to be left
            time.sleep(1)
            continue
        tries += 1
        made.update(fault.__name__ for fault in faults)
        del round_[-1:]
        what = " and ".join(fault.__name__ for fault in faults) or "left alone"
        what = ", ".join([what, *([f"W&B {server.fault}"] if server.fault else []), *layout])
        print(f"{time.monotonic() - began:6.0f} s  {what}: exit code {code}", flush=True)
        if not faults and code != 0:
            raise AssertionError("left alone, it does not end")
        if code == 0 and tries < len(given):
            raise AssertionError(f"the run ended before all of {arguments.faults} could be made")
    print(f"{made.total()} faults: {', '.join(f'{count} {name}' for name, count in made.items())}")
    return time.monotonic() - began


def pass_over_the_same(still: Path, run: Path) -> None:
    """Let the run in `still`, which has not begun, pass over the samples that `run` has passed over."""
    (still / "stages/nl").mkdir(parents=True)
    shutil.copy(run / "config.yaml", still)
    rewinds = [{"step": None, "event": "rewind", "what": "as the other", "samples": samples} for samples in gaps(run)]
    (still / "stages/nl/health.jsonl").write_text("".join(json.dumps(event) + "\n" for event in rewinds))


def one_try(
    words: list[str],
    variables: dict[str, str],
    run: Path,
    server: WandbServer,
    faults: list[Callable[[Try], None]],
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
            one = Try(process, run, server, chance)
            for fault in faults:
                fault(one)
            if stops:
                stop_when_it_went_on(one)
            break
    code = process.wait(300)
    psutil.wait_procs(children, 300)
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
