"""A checkpoint belongs to no layout: whatever wrote it, every other goes on from it as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from conf.compose import compose_settings
from conf.exit_codes import INTERRUPTED
from conf.lora import is_lora, trained_layers
from conf.run_folder import newest_step, read_json
from conf.schema import Settings
from model.adapters import beside
from model.weights import Weights, memory_reader
from parallel.engine import Engine
from parallel.full_state import WEIGHTS
from tests.parity import test_resume
from tests.parity.cases import RATE, SEED, STEPS, engine_of, half, mesh_for, micro_batches, settings_of, train
from tests.parity.test_layouts import HALF_LAYOUTS, LAYOUTS
from tests.train.sample.test_chat import write_talks
from tests.train.test_loop import OTHER_STAGES, command, trained, weights, write_corpora
from tests.twin import initial_weights
from tests.worlds import Worlds
from train.checkpoint.files import Keep
from train.checkpoint.load import checkpoint_weights, load_checkpoint
from train.checkpoint.save import Saver
from train.data.prepare import prepare
from train.schedule import learning_rate

SAVED = 3  # optimizer steps before the checkpoint
WRITERS = ["tp2 sp pp2 zero1", "dp2 zero3"]
READERS = [
    *("single", "tp2 sp", "dp2 zero2", "dp2 zero3", "dp2 zero1 offload", "dp2 zero3 offload"),
    *("pp4 uneven zero1", "tp2 sp dp2 zero2", "tp2 pp2 dp2 sp"),
]


def save(engine: Engine, folder: Path, step: int, settings: Settings) -> None:
    layers = [index for index, trained in enumerate(trained_layers(settings)) if trained]
    saver = Saver(engine, folder, Keep(1), layers)
    saver.save({"step": step})
    saver.wait()


def write(overrides: list[str], folder: Path) -> None:
    """A checkpoint after `SAVED` steps."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    for step in range(SAVED):
        engine.set_lr(RATE)
        engine.train_batch(micro_batches(step, settings, mesh))
    save(engine, folder, SAVED, settings)
    engine.destroy()


def go_on(overrides: list[str], checkpoint: Path, again: Path) -> dict[str, Any]:
    """Take up the checkpoint, save it `again` untouched, and train to the end."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    model, finetune = settings.model, settings.finetune
    weights = checkpoint_weights(checkpoint, model, finetune)
    frozen = Weights("seed", checkpoint, model, None, "seed", memory_reader(initial_weights(model, SEED)))
    engine = engine_of(settings, mesh, beside(frozen, weights.read) if is_lora(finetune) else weights)
    engine.load_full_state(WEIGHTS, weights.layer)
    step = load_checkpoint(engine, checkpoint, model, finetune)["step"]
    save(engine, again, step, settings)
    results = []
    for number in range(step, STEPS):
        engine.set_lr(RATE)
        results.append(engine.train_batch(micro_batches(number, settings, mesh)))
    engine.destroy()
    return {
        "loss": [result.loss for result in results],
        "gradient_norm": [result.gradient_norm for result in results],
    }


def same_checkpoint(one: Path, other: Path) -> bool:
    """Every file byte for byte, and every number."""
    return bool(read_json(one / "state.json") == read_json(other / "state.json"))


@pytest.fixture(scope="module", params=WRITERS)
def checkpoint(request: pytest.FixtureRequest, worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written under one of the layouts."""
    size, overrides = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    worlds(size).run(test_resume.write, overrides, folder)
    return folder / f"step_{SAVED:08d}"


@pytest.mark.parametrize("layout", READERS)
def test_any_layout_goes_on(
    layout: str, checkpoint: Path, worlds: Worlds, expected: dict[str, Any], tmp_path: Path
) -> None:
    size, overrides = LAYOUTS[layout]
    for result in worlds(size).run(test_resume.go_on, overrides, checkpoint, tmp_path):
        for key, values in result.items():
            assert values == pytest.approx(expected[key][SAVED:], rel=1e-5), key
    assert same_checkpoint(checkpoint, tmp_path / checkpoint.name)


@pytest.mark.parametrize(("writer", "reader"), [("tp2 pp2", "tp2 pp2"), ("dp2 zero3", "dp2 zero3"), ("pp2", "dp2")])
def test_masters_and_moments_stay_fp32_in_a_bf16_run(writer: str, reader: str, worlds: Worlds, tmp_path: Path) -> None:
    """Rounded once they would be off by 2^-9: here the run goes on to the last bit, under its own layout."""
    size, overrides = HALF_LAYOUTS[writer]
    undisturbed = worlds(size).run(train, overrides)[0]
    worlds(size).run(test_resume.write, overrides, tmp_path)
    checkpoint = tmp_path / f"step_{SAVED:08d}"
    size, overrides = HALF_LAYOUTS[reader]
    resumed = worlds(size).run(test_resume.go_on, overrides, checkpoint, tmp_path / "again")[0]
    assert same_checkpoint(checkpoint, tmp_path / "again" / checkpoint.name)
    for key, values in resumed.items():
        assert values == pytest.approx(undisturbed[key][SAVED:], rel=0 if reader == writer else 0.01, abs=0), key


def test_fp16_goes_on_with_the_scale_that_its_loss_had(worlds: Worlds, tmp_path: Path) -> None:
    for stage in (1, 3):
        overrides, folder = [f"layout.zero_stage={stage}"], tmp_path / str(stage)
        worlds(1).run(half, write, overrides, folder)
        checkpoint = folder / f"step_{SAVED:08d}"
        saved = read_json(checkpoint / "state.json")["optimizer"]
        assert saved["steps"] == SAVED and saved["adam_steps"] == SAVED - saved["skipped_steps"]
        assert saved["loss_scale"]["cur_scale"] > 1 and saved["loss_scale"]["cur_iter"] == SAVED
        undisturbed = worlds(1).run(half, train, overrides)[0]
        resumed = worlds(1).run(half, go_on, overrides, checkpoint, folder / "again")[0]
        assert same_checkpoint(checkpoint, folder / "again" / checkpoint.name)
        for key, values in resumed.items():
            assert values == undisturbed[key][SAVED:], key


def stopped(words: list[str]) -> int:
    """The exit code of a run that a scheduler's signal reaches in the step after the third, and what it leaves."""

    def rate(stage: Any, step: int) -> float:
        if step == SAVED + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(stage, step)

    with patch("train.loop.learning_rate", rate):
        return trained(words)


@pytest.mark.parametrize("objective", ["infill", "conversations"])
def test_a_stopped_run_of_another_objective_ends_with_the_same_weights(
    objective: str, worlds: Worlds, tmp_path: Path
) -> None:
    """Whole runs of two replicas, one stopped in its middle and called again: to the last bit."""
    write_corpora(tmp_path)
    stage, words = "nl", ["stage=nl", "data.objective=infill", "data.infill_fraction=0.8", "data.packing=best_fit"]
    if objective == "conversations":
        write_talks(tmp_path / "talks.jsonl")
        stage, words = "sft", ["stage=sft", "data=conversations", f"data.corpora.sft.paths=[{tmp_path}/talks.jsonl]"]
        words += ["stages.sft.steps=6", "model.vocab_size=448", "model.context_length=96"]
    base = [word for word in command(tmp_path, "undisturbed")[3:] if not word.startswith(OTHER_STAGES)]
    if objective == "conversations":
        base = [word for word in base if "stages.nl" not in word and "corpora" not in word and word != "data=files"]
    words = [*base, *words, f"stages.{stage}.global_batch_size=8", "run.save_every=100", "layout.micro_batch_size=2"]
    prepare(compose_settings(words))
    assert worlds(2).run(trained, words) == [0, 0]
    again = [*words, "run.name=stopped"]
    assert worlds(2).run(test_resume.stopped, again) == [INTERRUPTED, INTERRUPTED]
    run = tmp_path / "runs/stopped"
    assert newest_step(run)["step"] == SAVED + 1
    assert worlds(2).run(trained, again) == [0, 0]
    assert weights(run, stage) == weights(tmp_path / "runs/undisturbed", stage)
