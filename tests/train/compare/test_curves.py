"""Stages of one lineage are one curve: tokens, time and FLOPs add up; a shared stage is plotted once."""

import os
import shutil
from pathlib import Path

import pytest

from conf.errors import ConfigError
from model.flops import flops_per_token
from tests.train.compare_runs import write_run
from train.compare.curves import chain_stages, common_loss, compute_metrics, main_metric
from train.compare.picture import visible_points
from train.compare.read import read_folder


def test_costs_add_up_along_the_stages(tmp_path: Path) -> None:
    (curve,) = chain_stages([read_folder(write_run(tmp_path, "one", records=10))])
    points = curve.points("loss")
    tokens = [point.tokens for point in points]
    per_step = curve.last_stage.settings.stages["nl"].global_batch_size * curve.last_stage.settings.model.context_length
    assert tokens == [10 * number * per_step for number in range(1, 31)]
    assert [point.seconds for point in points] == [30.0 * number for number in range(1, 31)]
    assert points[-1].flops == tokens[-1] * flops_per_token(curve.last_stage.settings.model)
    assert [point.stage for point in points] == [0] * 10 + [1] * 10 + [2] * 10
    assert compute_metrics(curve, 1, None)["device_hours"] == pytest.approx(900 * 8 / 3600)


def test_device_hours_count_the_devices_of_each_stretch(tmp_path: Path) -> None:
    stages = read_folder(write_run(tmp_path, "one", stages="nl", records=10))
    for row in stages[0].records:
        row["devices"] = 8 if row["step"] <= 50 else 2
    assert compute_metrics(chain_stages([stages])[0], 1, None)["device_hours"] == pytest.approx(
        (150 * 8 + 150 * 2) / 3600
    )


def test_a_run_continues_the_curve_of_the_run_it_came_from(tmp_path: Path) -> None:
    base = write_run(tmp_path, "base", stages="nl,multi", records=10)
    tuned = write_run(tmp_path, "tuned", f"stages.mono.init_from={base}", stages="mono", records=10)
    (alone,) = chain_stages([read_folder(tuned)])
    assert [(stage.run, stage.name) for stage in alone.stages] == [("base", "nl"), ("base", "multi"), ("tuned", "mono")]
    assert len(visible_points(alone, alone.points("loss"))) == 30, "nothing else shows the ancestor"

    one, other = chain_stages([read_folder(tuned), read_folder(base)])
    assert compute_metrics(one, 1, None)["tokens"] == compute_metrics(alone, 1, None)["tokens"]
    shown = visible_points(one, one.points("loss"))
    assert [point.stage for point in shown] == [1] + [2] * 10, "from the ancestor's last point"
    assert shown[0] == other.points("loss")[-1]
    assert len(visible_points(other, other.points("loss"))) == 20


def test_runs_that_were_copied_elsewhere_still_find_their_parents(tmp_path: Path) -> None:
    base = write_run(tmp_path / "there", "base", stages="nl,multi", records=10)
    write_run(tmp_path / "there", "tuned", f"stages.mono.init_from={base}", stages="mono", records=10)
    shutil.move(tmp_path / "there", tmp_path / "here")
    (curve,) = chain_stages([read_folder(tmp_path / "here" / "tuned")])
    assert [stage.name for stage in curve.stages] == ["nl", "multi", "mono"]
    shutil.rmtree(tmp_path / "here" / "base")
    (curve,) = chain_stages([read_folder(tmp_path / "here" / "tuned")])
    assert [stage.name for stage in curve.stages] == ["mono"]
    assert "cannot be read" in curve.notes[0]


@pytest.mark.parametrize("parent", ["weights", "owner/name"])
def test_a_parent_that_is_no_stage_is_noted(parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hugging Face folder or a name on the hub, also where the command is run in a run's folder."""
    run = write_run(tmp_path, "one", stages="nl", records=10)
    monkeypatch.chdir(run)
    stages = read_folder(run)
    stages[0].parent = parent
    (curve,) = chain_stages([stages])
    assert curve.notes == [f"its parent {parent} cannot be read: its curve begins there at 0 tokens"]


def test_no_chain_is_each_stage_from_zero(tmp_path: Path) -> None:
    curves = chain_stages([read_folder(write_run(tmp_path, "one", records=10))], separate_stages=True)
    assert [curve.label for curve in curves] == ["one/nl", "one/multi", "one/mono"]
    assert len({curve.points("loss")[0].tokens for curve in curves}) == 1


def test_a_run_with_two_lineages_is_two_curves(tmp_path: Path) -> None:
    base = write_run(tmp_path, "base", stages="nl", records=10)
    run = write_run(tmp_path, "one", f"stages.mono.init_from={base}", stages="nl,mono", records=10)
    curves = chain_stages([read_folder(run)])
    assert [curve.label for curve in curves] == ["one/nl", "one/mono"]
    assert [stage.run for stage in curves[1].stages] == ["base", "one"]


def test_smoothing_is_the_mean_of_the_last_records_of_a_stage(tmp_path: Path) -> None:
    (curve,) = chain_stages([read_folder(write_run(tmp_path, "one", stages="nl,mono", records=10))])
    raw, smooth = ([point.value for point in curve.points("loss", count)] for count in (1, 3))
    assert smooth[0] == raw[0]
    assert smooth[5] == pytest.approx(sum(raw[3:6]) / 3)
    assert smooth[10] == raw[10], "a stage does not average over the one before"


def test_tokens_to_a_loss_count_along_the_lineage_on_the_last_corpus(tmp_path: Path) -> None:
    (curve,) = chain_stages([read_folder(write_run(tmp_path, "one", stages="nl,mono", records=10))])
    mono = [point for point in curve.points("loss") if point.stage == 1]
    target = mono[4].value
    first = next(point for point in mono if point.value <= target)
    assert compute_metrics(curve, 1, target)["tokens_to_loss"] == first.tokens
    assert compute_metrics(curve, 1, 0.1)["tokens_to_loss"] is None
    worse = chain_stages([read_folder(write_run(tmp_path, "worse", stages="mono", records=10, level=3.0))])[0]
    default = common_loss([curve, worse], 1)
    assert default == compute_metrics(worse, 1, None)["loss"]
    assert all(compute_metrics(each, 1, default)["tokens_to_loss"] for each in (curve, worse))


def test_older_records_have_flops_but_no_time(tmp_path: Path) -> None:
    (curve,) = chain_stages([read_folder(write_run(tmp_path, "old", records=10, old=True))])
    (new,) = chain_stages([read_folder(write_run(tmp_path, "new", records=10))])
    assert [point.flops for point in curve.points("loss")] == [point.flops for point in new.points("loss")]
    assert curve.points("loss")[0].seconds is None
    assert compute_metrics(curve, 1, None)["device_hours"] is None
    assert "no time" in curve.notes[0]


def test_states_and_losses_that_are_no_number_are_noted(tmp_path: Path) -> None:
    run = write_run(tmp_path, "one", stages="nl", records=10, upto=5)
    stages = read_folder(run)
    stages[0].records[2]["loss"] = None
    (curve,) = chain_stages([stages])
    assert curve.notes == ["still going (nl, step 50 of 100)", "1 records have no finite loss and are left out"]
    assert len(curve.points("loss")) == 4
    os.utime(run / "metrics.jsonl", (0, 0))
    assert chain_stages([read_folder(run)])[0].status() == "stopped (nl, step 50 of 100)"


def test_equal_names_are_told_apart_and_control_characters_are_harmless(tmp_path: Path) -> None:
    runs = [read_folder(write_run(tmp_path / place, "same", stages="nl", records=10)) for place in "ab"]
    runs.append(read_folder(write_run(tmp_path, "bell\a", stages="nl", records=10)))
    labels = [curve.label for curve in chain_stages(runs)]
    assert len(set(labels)) == 3
    assert str(tmp_path / "a") in labels[0]
    assert labels[2] == "bell\ufffd"


def test_runs_that_share_no_metric_keep_those_that_they_have(tmp_path: Path) -> None:
    one, other = (read_folder(write_run(tmp_path, name, stages="nl", records=10)) for name in "ab")
    one[0].records = [row for row in one[0].records if "loss" in row]
    other[0].records = [row for row in other[0].records if "loss" not in row]
    assert main_metric(chain_stages([one, other])) == "loss"
    assert main_metric(chain_stages([other])) == "bits_per_byte/nl"
    other[0].records = [{"step": 1, "tokens": 1, "stage": "nl"}]
    with pytest.raises(ConfigError, match="nothing to draw"):
        main_metric(chain_stages([other]))


def test_steps_go_on_over_the_stages_and_the_order_is_that_of_the_command_line(tmp_path: Path) -> None:
    runs = [read_folder(write_run(tmp_path, name, stages="nl,multi", records=10)) for name in "ba"]
    curves = chain_stages(runs)
    assert [curve.order for curve in curves] == [0, 1]
    steps = [at.total for at in curves[0].totals() if "loss" in at.record]
    assert steps == list(range(10, 210, 10))
