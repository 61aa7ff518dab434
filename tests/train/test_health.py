"""Runs with faults: nothing that is not finite is taken or saved, and the way back passes over the samples to blame."""

import math
import platform
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from conf.command_line import run_command
from conf.compose import compose_settings
from conf.errors import HealthError
from conf.exit_codes import UNHEALTHY
from conf.go_back import spent
from conf.run_folder import append_records, read_records
from tests.train import test_health
from tests.train.test_loop import OTHER_STAGES, command, write_corpora
from tests.worlds import Worlds
from train.data.batches import PassingOver, merged
from train.data.prepare import find_prepared, prepare
from train.health import Spikes, go_back

STEPS, BATCH = 8, 16


def test_gaps_are_left_out_of_an_order() -> None:
    gaps = merged([(7, 9), (2, 4), (4, 5)])
    assert gaps == [(2, 5), (7, 9)] and merged([(2, 9), (3, 4)]) == [(2, 9)]
    order = PassingOver(range(100), gaps)
    assert [order[position] for position in range(6)] == [0, 1, 5, 6, 9, 10]


def test_spikes_stand_out_of_noise_and_of_a_falling_loss() -> None:
    spikes = Spikes(window=16, deviations=10)
    falling = [8 * 0.97**step + 0.05 * (-1) ** step for step in range(100)]
    assert not any(spikes.is_spike(value) for value in falling)
    assert spikes.is_spike(3.0) and spikes.is_spike(3.0), "a spike does not become usual"
    assert not spikes.is_spike(falling[-1])
    steady = Spikes(window=4, deviations=10)
    assert [steady.is_spike(value) for value in (1.0, 1.0, 1.05, 1.2)] == [False, False, False, True]


def test_its_exit_code_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: list[str]) -> int:
        raise HealthError("stage nl: not well")

    assert run_command(fail, []) == UNHEALTHY == 4
    assert capsys.readouterr().err == "error: stage nl: not well\n"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpora(folder)
    return folder


def words_of(folder: Path, name: str, *more: str) -> list[str]:
    words = [word for word in command(folder, name)[3:] if not word.startswith(OTHER_STAGES)]
    own = ["stage=nl", "health.bad_steps=2", f"stages.nl.steps={STEPS}", "run.save_every=2", "evaluation.every=100"]
    return [*words, *own, *more]


def run(
    words: list[str],
    bad_samples: tuple[int, int] | None,
    bad_weight: bool,
    processes: int = 2,
    disturb: str = "",
    at: int = 0,
) -> tuple[str, list[str]]:
    """How the run ends in this world, and what it says. bad_samples: positions in the order of the data whose loss is
    nan; bad_weight: from the fifth step on a weight of the last process is inf. disturb: at the step of this number,
    "stop" (it is asked to), "spike" (of the loss), or on the last process "nan" (of one gradient) or "flip" (of a bit
    of one weight, after the step)."""
    from parallel.engine import Engine, Stack
    from train.data.mixture import training_samples
    from train.loop import train
    from train.stop import SIGNALS, StopSignal

    settings = compose_settings(words, processes)
    data = find_prepared(settings)
    assert data is not None
    dataset, order = training_samples(settings, data, "nl")
    bad = [torch.as_tensor(dataset[order[position]][0]) for position in range(*(bad_samples or (0, 0)))]
    forward, take, taken = Stack.forward, Engine.train_batch, [0]
    engines, most = weakref.WeakSet[Any](), [0]

    def poisoned(stack: Stack, ids: torch.Tensor, labels: torch.Tensor | None = None, *more: Any) -> torch.Tensor:
        output = forward(stack, ids, labels, *more)
        hit = any(bool((ids == row).all(dim=1).any()) for row in bad)
        return output * math.nan if hit and labels is not None and torch.is_grad_enabled() else output

    def broken(engine: Engine, micro_batches: Any) -> Any:
        taken[0] += 1
        engines.add(engine.deepspeed)
        most[0] = max(most[0], len(engines))
        if disturb and taken[0] == at:
            return disturbed(engine, micro_batches)
        if bad_weight and taken[0] >= 5 and engine.mesh.rank == engine.mesh.size - 1:
            next(engine.deepspeed.module.parameters()).data.fill_(math.inf)
        return take(engine, micro_batches)

    def disturbed(engine: Engine, micro_batches: Any) -> Any:
        first = next(engine.deepspeed.module.parameters())
        last = engine.mesh.rank == engine.mesh.size - 1
        if disturb == "nan" and last:
            hook = first.register_hook(lambda gradient: gradient * math.nan)
        result = take(engine, micro_batches)
        if disturb == "nan" and last:
            hook.remove()
        if disturb == "flip" and last:
            first.data.view(torch.int32).view(-1)[0] ^= 1
        if disturb == "stop":
            signal.raise_signal(signal.SIGTERM)
        return replace(result, loss=3 * result.loss) if disturb == "spike" else result

    said: list[str] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with (
        patch.object(Stack, "forward", poisoned),
        patch.object(Engine, "train_batch", broken),
        patch("train.context.LOGGER.log", lambda _, form, *values: said.append(form % values)),
        patch("train.context.leave"),
        patch("train.loop.Benchmarks.leave", lambda _: said.append("scoring is left")),
    ):
        try:
            ended = str(train(settings, StopSignal()))
        except HealthError as error:
            ended = str(error)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return ended, [*said, f"engines in memory at once: {most[0]}"]


def all_finite(stage: Path) -> bool:
    return all(
        bool(value.isfinite().all()) for path in stage.rglob("*.safetensors") for value in load_file(path).values()
    )


@pytest.mark.parametrize(("zero", "saved"), [(0, 4), (1, 4), (1, 5)])
def test_bad_samples_are_passed_over(zero: int, saved: int, corpora: Path, worlds: Worlds) -> None:
    """The samples of steps 5 and 6 are bad: both are left out, the run returns to the step that was saved and never
    reads them again. Those that were read before it are behind it."""
    name = f"samples{zero}{saved}"
    words = words_of(corpora, name, f"layout.zero_stage={zero}", f"run.save_every={saved}")
    prepare(compose_settings(words))
    results = worlds(2).run(test_health.run, words, (4 * BATCH, 6 * BATCH), False)
    stage = corpora / "runs" / name / "stages/nl"
    assert [ended for ended, _ in results] == ["0", "0"]
    events = read_records(stage / "health.jsonl")
    assert [(event["event"], event["step"]) for event in events] == [
        ("not taken", 5),
        ("not taken", 6),
        ("rewind", None),
    ]
    assert events[-1]["samples"] == [saved * BATCH, 6 * BATCH]
    assert results[0][1].count("scoring is left") == 1, "what it goes on with is of discarded weights"
    told = [line for line in results[0][1] if "going back" in line]
    assert len(told) == 1 and f"passing over samples {saved * BATCH} to 95 (time 1 of 3)" in told[0]
    rows = [row for row in read_records(corpora / "runs" / name / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["skipped"] or row["loss"] is None] == list(range(5, saved + 1))
    assert all_finite(stage)


def test_scores_and_records_of_discarded_weights_go(tmp_path: Path) -> None:
    """The step that is trained anew is sampled anew."""
    mesh = SimpleNamespace(is_main=True, broadcast_object=lambda value: value, barrier=lambda: None)
    settings = compose_settings(["model=tiny", "stage=nl"])
    context: Any = SimpleNamespace(settings=settings, folder=tmp_path, mesh=mesh, log=lambda _: None)
    evaluations = tmp_path / "stages/nl/evaluations"
    for step in (0, 8):
        (evaluations / f"humaneval_step_{step:09d}").mkdir(parents=True)
    rows = [{"stage": "nl", "step": step, "bits_per_byte/nl": 2.0, "seconds": step} for step in (0, 8)]
    append_records(tmp_path / "metrics.jsonl", rows)
    go_back(context, "nl", HealthError("not well"))
    assert [path.name for path in evaluations.iterdir()] == ["humaneval_step_000000000"]
    assert read_records(tmp_path / "metrics.jsonl") == rows[:1] and spent(tmp_path, "nl") == {"seconds": 8}


def test_broken_weights_stop_the_run_with_good_checkpoints_kept(corpora: Path, worlds: Worlds) -> None:
    words = words_of(corpora, "weights", "health.rewinds=1")
    prepare(compose_settings(words))
    for ended, _ in worlds(2).run(test_health.run, words, None, True):
        assert "after going back 1 times (health.rewinds=1); the last checkpoint is kept" in ended
        assert "2 steps in a row up to 6 had no finite loss" in ended
    stage = corpora / "runs/weights/stages/nl"
    assert [path.name for path in sorted((stage / "checkpoints").iterdir())] == ["step_00000002", "step_00000004"]
    assert all_finite(stage)


def test_asked_to_stop_it_does_not_go_back(corpora: Path, worlds: Worlds) -> None:
    words = words_of(corpora, "stopped", "health.on_bad=stop")
    prepare(compose_settings(words))
    for ended, _ in worlds(2).run(test_health.run, words, (4 * BATCH, 5 * BATCH), False):
        assert ended == "0", "one step is not enough"
    words = words_of(corpora, "stopped2", "health.on_bad=stop")
    for ended, _ in worlds(2).run(test_health.run, words, (4 * BATCH, 6 * BATCH), False):
        assert ended.endswith("(health.on_bad=stop); the last checkpoint is kept")


@pytest.mark.parametrize(
    "layout",
    [f"layout.{key}" for key in ("zero_stage=0", "zero_stage=2", "zero_stage=3")]
    + [f"layout.{key}_parallel_size=2" for key in ("tensor", "pipeline")],
)
def test_one_nan_on_one_rank_is_a_step_that_no_rank_takes(layout: str, corpora: Path, worlds: Worlds) -> None:
    name = "one-" + layout.partition(".")[2].replace("_", "-").replace("=", "")
    words = words_of(corpora, name, layout)
    prepare(compose_settings(words))
    results = worlds(2).run(test_health.run, words, None, False, 2, "nan", 5)
    assert [ended for ended, _ in results] == ["0", "0"]
    stage = corpora / "runs" / name / "stages/nl"
    assert [(event["event"], event["step"]) for event in read_records(stage / "health.jsonl")] == [("not taken", 5)]
    rows = {row["step"]: row for row in read_records(corpora / "runs" / name / "metrics.jsonl") if "loss" in row}
    assert [step for step, row in rows.items() if row["skipped"]] == [5]
    assert all(math.isfinite(rows[step]["loss"]) for step in (6, 7, 8)) and all_finite(stage)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_flipped_bit_in_one_replica_is_found_before_it_is_saved(zero: int, corpora: Path, worlds: Worlds) -> None:
    """The rank and its node are named, and the run resumes from the last checkpoint."""
    name = f"flip{zero}"
    words = words_of(corpora, name, f"layout.zero_stage={zero}")
    prepare(compose_settings(words))
    results = worlds(2).run(test_health.run, words, None, False, 2, "flip", 6)
    assert [ended for ended, _ in results] == ["0", "0"]
    (event,) = read_records(corpora / "runs" / name / "stages/nl/health.jsonl")
    assert event["event"] == "rewind" and event["samples"] is None
    assert results[0][1][-1] == "engines in memory at once: 1"
    assert f"rank 1 on {platform.node()}" in event["what"] and "step 6" in event["what"]


def test_spikes_are_known_after_a_resume_and_gone_back_from_by_setting(corpora: Path, worlds: Worlds) -> None:
    """Stopped after step 5, the run meets a spike in the next step, before it has seen half a window by itself."""
    words = words_of(corpora, "spikes", "health.spike_window=8", "health.on_spike=rewind", "run.save_every=5")
    prepare(compose_settings(words))
    assert [ended for ended, _ in worlds(2).run(test_health.run, words, None, False, 2, "stop", 5)] == ["75", "75"]
    results = worlds(2).run(test_health.run, words, None, False, 2, "spike", 1)
    assert [ended for ended, _ in results] == ["0", "0"]
    events = read_records(corpora / "runs/spikes/stages/nl/health.jsonl")
    assert [(event["event"], event["step"]) for event in events] == [("spike", 6), ("rewind", None)]
    assert events[-1]["samples"] == [5 * BATCH, 6 * BATCH]
    assert any("a spike: loss " in line for line in results[0][1])
