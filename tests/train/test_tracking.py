"""The records of a run: what is written comes back, and a record cut off by a kill does no harm."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conf.choices import Precision
from conf.go_back import drop_after
from conf.run_folder import append_records, read_metrics
from conf.schema import Settings
from model.flops import flops_per_token
from model.kernels import REFERENCE
from parallel.engine import StepResult
from parallel.mesh import ProcessMesh, TensorParallelGroup
from train.context import RunContext
from train.meter import Meter
from train.summary import device_seconds, stage_figures
from train.tracking import Tracker, open_tracker
from train.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
CUT_OFF = '{"stage": "nl", "step": 3, "lo'


@pytest.fixture
def context(tmp_path: Path, settings: Settings) -> Iterator[RunContext]:
    """A job of one process, without W&B. Its watchdog ends with the test: it would end pytest, which takes no steps."""
    settings = replace(settings, tracking=replace(settings.tracking, wandb=False))
    mesh = ProcessMesh(0, 1, torch.device("cpu"), 0, 1, 0, 1, TensorParallelGroup(), None)
    prepared: Any = None  # a tracker reads no data
    watchdog = Watchdog(tmp_path, 0, ["n"], 60.0)
    yield RunContext(settings, tmp_path, prepared, mesh, Precision.fp32, REFERENCE, 0.5, watchdog)
    watchdog.close()


def write(folder: Path, *steps: tuple[str, int], end: str = "") -> None:
    rows = [json.dumps({"stage": stage, "step": step, "bits_per_byte/nl": 2.5}) + "\n" for stage, step in steps]
    (folder / "metrics.jsonl").write_text("".join(rows) + end)


def steps(folder: Path) -> list[tuple[str, int]]:
    return [(row["stage"], row["step"]) for row in read_metrics(folder)]


@pytest.mark.parametrize("end", [CUT_OFF, CUT_OFF + '"}', '{"stage": "nl"}', ""])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, end: str) -> None:
    write(tmp_path, ("nl", 1), ("nl", 2), end=end)
    assert steps(tmp_path) == [("nl", 1), ("nl", 2)]


def test_a_run_without_records_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_what_an_interrupted_try_recorded_comes_no_second_time(
    context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    write(context.folder, ("nl", 8), ("multi", 2), ("multi", 4), ("multi", 6), end=CUT_OFF)
    tracker = open_tracker(context, "multi", {})
    tracker.record_scores("multi", 6, {"nl": 2.5})
    assert "nl 2.5000" in capsys.readouterr().out  # shown again, as it is trained again
    tracker.record_scores("multi", 8, {"nl": 2.5})
    assert steps(context.folder) == [("nl", 8), ("multi", 2), ("multi", 4), ("multi", 6), ("multi", 8)]


def test_another_stage_records_steps_of_the_same_number(context: RunContext) -> None:
    write(context.folder, ("nl", 8))
    open_tracker(context, "multi", {}).record_scores("multi", 8, {"nl": 2.5})
    assert steps(context.folder) == [("nl", 8), ("multi", 8)]


def test_seconds_go_on_from_the_interrupted_try(context: RunContext) -> None:
    (context.folder / "metrics.jsonl").write_text(json.dumps({"stage": "nl", "step": 2, "seconds": 40.0}) + "\n")
    open_tracker(context, "nl", {}).record_scores("nl", 4, {"nl": 2.5})
    assert 40 <= read_metrics(context.folder)[-1]["seconds"] < 70


def test_a_stage_that_went_back_has_still_taken_what_was_dropped(context: RunContext) -> None:
    """90 s on 8 devices up to step 9, of which half is dropped; from there on one device goes on."""
    base = {"stage": "nl", "loss": 2.0, "devices": 8}
    took = ({"step": step, "seconds": 10.0 * step, "seconds_training": 9.0 * step} for step in range(1, 10))
    append_records(context.folder / "metrics.jsonl", ({**base, **row, "energy_joules": 1e3} for row in took))
    tracker = open_tracker(context, "nl", {})
    tracker.record_scores("nl", 9, {"nl": 2.5})
    before = read_metrics(context.folder)[-1]
    assert before["device_seconds"] == pytest.approx(90 * 8, abs=5) and device_seconds([before]) >= 720
    drop_after(context.folder, "nl", 4)
    tracker, meter = open_tracker(context, "nl", {}), Meter(context)
    tracker.began -= 10.0
    meter.began -= 5.0
    tracker.record_step("nl", 5, 1e-3, StepResult(2.0, 1.0, False), meter)
    row = read_metrics(context.folder)[-1]
    assert row["step"] == 5 and row["seconds"] == pytest.approx(100, abs=5)
    assert row["device_seconds"] == pytest.approx(90 * 8 + 10, abs=5)
    assert row["seconds_training"] == pytest.approx(81 + 5, abs=3)
    figures = stage_figures([row for row in read_metrics(context.folder) if row["stage"] == "nl"], "nl")
    assert figures["device_hours"] * 3600 == row["device_seconds"] and figures["total_seconds"] == row["seconds"]


def test_a_step_is_recorded_with_its_tokens_and_speed(context: RunContext, capsys: pytest.CaptureFixture[str]) -> None:
    tracker, meter = open_tracker(context, "nl", {}), Meter(context)
    meter.count(16)
    tracker.record_step("nl", 10, 1e-3, StepResult(5.25, 0.75, False), meter)
    (row,) = read_metrics(context.folder)
    assert (row["stage"], row["step"], row["loss"], row["learning_rate"]) == ("nl", 10, 5.25, 1e-3)
    assert (row["gradient_norm"], row["skipped"], row["tokens"]) == (0.75, False, 10 * 16 * 256)
    flops = row["tokens_per_second"] * flops_per_token(context.settings.model)
    assert row["tflops_per_device"] == pytest.approx(flops / 1e12)
    assert row["mfu"] == pytest.approx(row["tflops_per_device"] / 0.5)
    assert row["memory_bytes"] > 2**20
    line = capsys.readouterr().out
    assert line.startswith("nl  10/120  loss 5.2500  lr 1.00e-03  grad norm 0.750") and line.count("\n") == 1


def test_a_meter_measures_its_own_stretch(context: RunContext) -> None:
    meter = Meter(context)
    meter.started -= 1e4  # seconds ago
    meter.count(16)
    meter.count(16)
    assert meter.read()["tokens_per_second"] == pytest.approx(2 * 16 * 256 / 1e4, rel=0.05)
    meter.started -= 1e4
    assert meter.read()["tokens_per_second"] == 0


def test_the_first_reading_has_the_compiling_in_it_and_tells_no_time_left(
    context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    context = replace(context, peak_tflops=None)
    tracker, meter = open_tracker(context, "nl", {}), Meter(context)
    for step in (1, 2):
        meter.count(16)
        tracker.record_step("nl", step, 1e-3, StepResult(5.25, 0.75, False), meter)
    first, second = capsys.readouterr().out.splitlines()
    assert " left" not in first and second.endswith(" left")
    assert "MFU" not in first + second, "a CPU has no known peak"


def test_the_time_of_each_part_adds_up_over_interruptions(context: RunContext) -> None:
    for _ in range(2):
        tracker, meter = open_tracker(context, "nl", {}), Meter(context)
        batches = meter.waiting(iter([1, 2]))  # type: ignore[list-item]
        with meter.part("evaluation"):
            next(batches)
        meter.seconds["evaluation"] = 3.0
        meter.count(16)
        tracker.record_step("nl", len(read_metrics(context.folder)) + 1, 1e-3, StepResult(5.0, 1.0, False), meter)
    rows = read_metrics(context.folder)
    assert [row["seconds_evaluation"] for row in rows] == [3.0, 6.0]
    assert rows[1]["seconds_data"] > rows[0]["seconds_data"] > 0 and rows[0]["energy_joules"] is None


def test_a_rank_that_stays_slow_is_named_once(context: RunContext, capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(context)
    for slowest, spread in [(2, 0.4), (2, 0.5), (1, 0.4), (2, 0.4), (2, 0.4), (2, 0.4), (2, 0.4), (2, 0.1)]:
        meter._watch(slowest, spread, f"n{slowest}")
    assert capsys.readouterr().out == "warning: rank 2 on n2 computes 40% slower than the median rank\n"


def test_a_loss_that_is_no_number_leaves_lines_that_any_reader_takes(context: RunContext) -> None:
    tracker, meter = open_tracker(context, "nl", {}), Meter(context)
    meter.count(1)
    tracker.record_step("nl", 1, 0.0, StepResult(float("nan"), float("inf"), True), meter)
    (line,) = (context.folder / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=pytest.fail)
    assert row["loss"] is None and row["gradient_norm"] is None and row["skipped"] is True


def test_other_processes_write_nothing(context: RunContext, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = replace(context, mesh=replace(context.mesh, rank=1))
    open_tracker(quiet, "nl", {}).record_scores("nl", 1, {"nl": 1.0})
    assert [path.name for path in context.folder.iterdir()] == ["hangs"], "the watchdog's"
    assert capsys.readouterr().out == ""


def test_a_run_goes_on_without_wandb_where_it_fails(context: RunContext, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def log(values: dict[str, Any], step: int) -> None:
        calls.append(step)
        raise OSError("disk full")

    tracker = Tracker(context.folder, context, SimpleNamespace(log=log), [])
    tracker.record_scores("nl", 1, {"nl": 2.5})
    tracker.record_scores("nl", 2, {"nl": 2.0})
    assert calls == [1] and steps(context.folder) == [("nl", 1), ("nl", 2)]
    assert "W&B failed and is left out from here (OSError('disk full'))" in capsys.readouterr().out


@pytest.mark.parametrize("steps_after", [1, 0])
def test_what_a_save_before_the_first_step_cost_is_no_step_of_its_own_in_wandb(
    context: RunContext, steps_after: int
) -> None:
    """A new offline file of a run that goes on would have it as step 0, which an upload puts before the others."""
    logged: list[tuple[list[str], dict[str, Any]]] = []
    summary: dict[str, Any] = {}
    run = SimpleNamespace(
        log=lambda values, **how: logged.append((sorted(values), how)),
        summary=SimpleNamespace(update=summary.update),
        finish=lambda: None,
    )
    tracker = Tracker(context.folder, context, run, [])
    cost = {"step": 6, "bytes": 9, "stall_seconds": 0.1, "drain_seconds": 0.1, "gigabytes_per_second": 1.0}
    tracker.record_save("nl", cost)
    assert logged == []
    for _ in range(steps_after):
        tracker.record_scores("nl", 8, {"nl": 2.0})
        tracker.record_save("nl", {**cost, "step": 7})
    tracker.finish()
    if steps_after:
        (first, at), (_, late) = logged
        assert not {"tokens", "seconds", "flops", "devices"} & {*_}, "those of the step under way stay"
        assert {"bits_per_byte/nl", "save/bytes"} <= {*first} and at == {"step": 8} and late == {"commit": False}
    assert ("save/bytes" in summary) == (not steps_after)


def test_samples_are_kept_and_shown_without_control_characters(
    context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker(context, "nl", {})
    tracker.record_samples("nl", {"mono": "f():\x1b[2J\n\treturn"}, context.folder / "samples.md")
    shown = capsys.readouterr().out
    assert "def f():\ufffd[2J\n\treturn" in shown and "\x1b" not in shown
    assert "# Samples after stage nl" in (context.folder / "samples.md").read_text()


RECORD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from train.tracking import Tracker
evaluation = SimpleNamespace(sample_prompts={"mono": "x = "})
context = SimpleNamespace(settings=SimpleNamespace(evaluation=evaluation), log=lambda line: None)
folder = Path(sys.argv[1])
Tracker(folder, context, None, []).record_samples("nl", {"mono": "caf\\u00e9"}, folder / "samples.md")
"""


def test_samples_are_written_in_any_locale(tmp_path: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", RECORD, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **locale}, check=True)
    assert "x = caf\u00e9" in (tmp_path / "samples.md").read_text(encoding="utf-8")
