"""Whole runs through `python -m launch`: real processes, three stages, interruption, death, resumption."""

import contextlib
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from safetensors.torch import load_file

from conf.checksums import damage
from conf.compose import compose_settings
from conf.run_folder import newest_step, read_metrics, step_of
from launch.control import cancel
from tests.canary import CANARIES, places
from tests.train import test_loop
from tests.train.evaluate.cases import ALLOWED
from tests.worlds import Worlds
from train.checkpoint.files import checkpoints
from train.compare.curves import chain_stages
from train.compare.read import read_folder
from train.data.prepare import prepare
from train.report import read_scores

ROOT = Path(__file__).parents[2]
STEPS = 6
OTHER_STAGES = ("stages.multi.", "stages.mono.")  # words of `command` that a test of one stage leaves out


def write_corpora(folder: Path) -> None:
    """Three corpora of different words, 300 short documents each."""
    for name in ("nl", "multi", "mono"):
        chance = random.Random(name)
        words = [f"{name}{chance.randrange(100)}" for _ in range(30)]
        rows = [{"text": " ".join(chance.choices(words, k=60)) + "\n"} for _ in range(300)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {"entry_point": "one", "canonical_solution": "    return 1\n"}
    hard = {"task_id": "hard", "prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1\n", **texts}
    easy = {"task_id": "easy", "prompt": "one = 1 #", "test": "def check(f): pass\n", **texts}
    unused = {**hard, "task_id": "unused"}
    (folder / "functions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (hard, easy, unused)))


def command(folder: Path, name: str, *more: str) -> list[str]:
    """A launch of two processes that takes seconds."""
    sizes = ["model.n_layer=2", "model.n_embd=32", "model.n_head=4", "model.rotary_dim=4", "model.vocab_size=400"]
    stages = [
        f"stages.{stage}.{key}" for stage in ("nl", "multi", "mono") for key in (f"steps={STEPS}", "warmup_steps=2")
    ]
    paths = [f"data.corpora.{corpus}.paths=[{folder / corpus}.jsonl]" for corpus in ("nl", "multi", "mono")]
    places = [f"run.root={folder / 'runs'}", f"run.name={name}", f"data.cache={folder / 'cache'}"]
    rest = ["model.context_length=32", "data=files", "data.corpora.multi.code=false", "data.corpora.mono.code=false"]
    quick = ["kernels=eager", "evaluation.sample_tokens=4", "tracking.log_every=1", "data.validation_fraction=0.1"]
    own = ["run.save_every=1", "cluster.processes_per_node=2", "tracking.wandb=false", "cluster.restarts=0"]
    return [sys.executable, "-m", "launch", *sizes, *stages, *paths, *places, *rest, *quick, *own, *more]


def scored(folder: Path, name: str) -> list[str]:
    """The same with W&B and a benchmark that is scored after every third step."""
    options = [f"problems={folder}/functions.jsonl", "max_new_tokens=8", "seconds=300", f"sandbox={ALLOWED.name}"]
    task = f"{{every: 3, samples: 3, problems: 2, settings: {options}}}"
    return command(folder, name, f"evaluation.tasks={{humaneval: {task}}}", "tracking.wandb=true")


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


def trained(words: list[str]) -> int:
    """The exit code of a run in this world, whose data is prepared."""
    from train.loop import train
    from train.stop import SIGNALS, StopSignal

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with patch("train.context.leave"):
            return train(compose_settings(words, 1), StopSignal())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def weights(run: Path, stage: str) -> dict[str, list]:
    return {
        f"{path.stem}.{name}": value.tolist()
        for path in sorted((run / "stages" / stage / "weights").glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpora(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpora: Path) -> Path:
    done = launch(*scored(corpora, "undisturbed"))
    assert done.returncode == 0, done.stdout + done.stderr
    return corpora / "runs" / "undisturbed"


def test_a_run_leaves_what_the_readme_says(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "stages.md", "stages.png", "stages", "wandb"} | {
        "summary.md",
        "schedule.png",
    } <= names
    assert "hangs" not in names, "there was none"
    for stage in ("nl", "multi", "mono"):
        left = {path.name for path in (undisturbed / "stages" / stage).iterdir()}
        files = {"deepspeed.json", "lineage.json", "evaluation.json", "samples.md", "checkpoints", "weights"}
        assert files <= left
        assert len(list((undisturbed / "stages" / stage / "checkpoints").glob("step_*"))) == 2
    assert len(list((undisturbed / "wandb").glob("offline-run-*"))) == 3


def test_each_stage_records_its_parent_and_is_scored_on_every_corpus(undisturbed: Path) -> None:
    lineage = json.loads((undisturbed / "stages/mono/lineage.json").read_text())
    assert lineage["lineage"] == ["undisturbed/nl", "undisturbed/multi", "undisturbed/mono"]
    assert lineage["parent"] == str(undisturbed / "stages/multi")
    scores = read_scores(undisturbed)
    assert list(scores) == ["nl", "multi", "mono"]
    assert all(list(values) == ["nl", "multi", "mono"] for values in scores.values())
    assert all(0 < score < 9 for values in scores.values() for score in values.values())


def test_records_are_whole_and_the_stages_differ(undisturbed: Path) -> None:
    rows = [row for row in read_metrics(undisturbed) if "loss" in row]
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("nl", "multi", "mono") for step in range(1, STEPS + 1)
    ]
    wanted = {"loss", "learning_rate", "gradient_norm", "tokens", "tokens_per_second", "tflops_per_device", "mfu"}
    assert all(wanted | {"memory_bytes"} <= row.keys() for row in rows)
    assert rows[-1]["tokens"] == STEPS * 16 * 32
    assert weights(undisturbed, "nl") != weights(undisturbed, "multi") != weights(undisturbed, "mono")


def test_each_stage_is_scored_on_a_benchmark_while_it_trains(undisturbed: Path) -> None:
    rows = [row for row in read_metrics(undisturbed) if "humaneval/pass@1" in row]
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("nl", "multi", "mono") for step in (3, 6)
    ]
    assert all(row["humaneval/pass@1"] == 0.5 and row["tokens"] == row["step"] * 16 * 32 for row in rows)
    folder = undisturbed / "stages/nl/evaluations/humaneval_step_000000003"
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [(row["task_id"], row["sample"]) for row in samples] == [(f, n) for f in ("hard", "easy") for n in range(3)]
    assert json.loads((folder / "scores.json").read_text())["passed"] == {"hard": [False] * 3, "easy": [True] * 3}
    for path in (undisturbed / "wandb").glob("offline-run-*/*.wandb"):
        assert b"humaneval/pass@1" in path.read_bytes()
    (curve,) = chain_stages([read_folder(undisturbed)])
    assert "humaneval/pass@1" in curve.metrics() and len(curve.points("humaneval/pass@1")) == 6


def test_an_unfit_node_is_named_before_a_step(corpora: Path) -> None:
    done = launch(*command(corpora, "unfit", "cluster.min_free_gib=1e9"))
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"error: {platform.node()}: ")
    assert "GiB free for run.root; cluster.min_free_gib=1e+09" in errors[0] and "Traceback" not in done.stderr
    assert not (corpora / "runs/unfit/metrics.jsonl").exists()


def test_called_again_it_keeps_what_is_finished(undisturbed: Path, corpora: Path) -> None:
    before = weights(undisturbed, "mono")
    done = launch(*scored(corpora, "undisturbed"))
    assert done.returncode == 0 and "undisturbed is finished: nl, multi, mono" in done.stdout
    assert "| after stage | nl | multi | mono |" in done.stdout and "waiting for data" in done.stdout
    assert "processes" not in done.stdout, "nothing is started"
    assert weights(undisturbed, "mono") == before


def test_a_folder_that_holds_another_run_is_refused(undisturbed: Path, corpora: Path) -> None:
    done = launch(*scored(corpora, "undisturbed"), "optimizer.beta2=0.95")
    assert done.returncode == 2
    assert "optimizer.beta2 was 0.999, now 0.95" in done.stderr
    assert done.stderr.count("\n") == 1


def until(process: subprocess.Popen[str], text: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if text in line:
            return
    raise AssertionError(f"{text!r} never came")


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # what a rank had asked git, and such
            found += [child] if "RANK" in child.environ() and "train" in child.cmdline() else []  # not W&B's
    return found


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def goes_on_after(errors: str, saved: str) -> int:
    """The step that the launcher says the run resumes after; there is a whole checkpoint of it."""
    found = re.search(rf"^{saved}; the same command resumes (.*) after multi step (\d+)$", errors, re.MULTILINE)
    assert found is not None, errors
    (newest,) = checkpoints(Path(found[1]) / "stages/multi/checkpoints")[-1:]
    assert step_of(newest) == int(found[2]) and damage(newest) is None
    return int(found[2])


@pytest.mark.parametrize("how", ["it is cancelled", "a rank is killed while it stops"])
def test_a_disturbed_run_ends_with_the_same_weights(how: str, undisturbed: Path, corpora: Path) -> None:
    name = how.replace(" ", "-")
    words = scored(corpora, name)
    variables = {**os.environ, **CANARIES, "WANDB_MODE": "offline"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, cwd=ROOT, env=variables, stdout=pipe, stderr=pipe, text=True)
    list(until(process, "nl 1/6"))
    assert not places(corpora), "on a command line"
    lines = list(until(process, "multi 4/6"))  # the checkpoints of steps 1 and 2 are on the disk: one save is in flight
    run = corpora / "runs" / name
    killed = how == "a rank is killed while it stops"
    if killed:
        victim = ranks(process)[1]
        victim.suspend()  # so that it does not save
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None and any(line.startswith("stopping: ") for line in process.stderr)
        victim.kill()
    else:
        assert cancel([str(run)]) == 0
    rest, errors = process.communicate(timeout=240)  # a collective would wait for half an hour
    assert not places(corpora), "in a file"
    if killed:
        assert process.returncode == 128 + signal.SIGINT
        assert "error: rank 1 (process" in errors
        reached = goes_on_after(errors, "ended before it had saved")
        twice = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=pipe, text=True)
        while len(ranks(twice)) < 2:
            assert twice.poll() is None
            time.sleep(0.1)
        twice.send_signal(signal.SIGINT)  # it is only starting, and has nothing new to save
        assert twice.stderr is not None and any(line.startswith("stopping: ") for line in twice.stderr)
        twice.send_signal(signal.SIGINT)
        errors = twice.stderr.read()
        assert twice.wait(240) == 128 + signal.SIGINT and goes_on_after(errors, "ended before it had saved") == reached
    else:
        assert process.returncode == 75, "".join(lines) + rest + errors
        assert "the same command resumes from here" in rest
        assert goes_on_after(errors, "saved") == newest_step(run)["step"]

    if killed:
        newest = checkpoints(run / "stages/multi/checkpoints")[-1]
        flip(max(newest.rglob("*.safetensors"), key=lambda path: path.stat().st_size))
    done = launch(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("is damaged: " in done.stdout) == killed
    assert "resuming" in done.stdout and "stage nl: finished before, kept" in done.stdout
    assert "stage multi: resuming after step" in done.stdout
    for stage in ("nl", "multi", "mono"):
        assert weights(run, stage) == weights(undisturbed, stage)
    found = [(row["stage"], row["step"]) for row in read_metrics(run) if "humaneval/pass@1" in row]
    assert sorted(found) == sorted((stage, step) for stage in ("nl", "multi", "mono") for step in (3, 6))
    steps = [(row["stage"], row["step"]) for row in read_metrics(run) if "loss" in row]
    assert steps == sorted(set(steps), key=steps.index) and len(steps) == 3 * STEPS


def test_a_wsd_stage_that_is_made_longer_is_the_longer_run(corpora: Path, worlds: Worlds) -> None:
    """Extended after it was finished, it goes back to where it was stable, and ends with the longer run's weights."""
    short = ["stage=nl", "cluster.processes_per_node=1", "stages.nl.schedule=wsd", "stages.nl.anneal_steps=2"]
    words = [word for word in command(corpora, "wsd", *short)[3:] if not word.startswith(OTHER_STAGES)]
    longer = [*words, "stages.nl.steps=9"]
    prepare(compose_settings(words))
    for each in (words, [*longer, "run.extend=true"], [*longer, "run.name=whole"]):
        assert worlds(1).run(test_loop.trained, each) == [0]
    run = corpora / "runs/wsd"
    assert weights(run, "nl") == weights(corpora / "runs/whole", "nl")
    lineage = json.loads((run / "stages/nl/lineage.json").read_text())
    assert lineage["extensions"][0]["after_step"] == 4 and lineage["steps"] == 9
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(run) if "loss" in row}
    assert list(rates) == list(range(1, 10)) and rates[7] == rates[2] > rates[8] > rates[9]
