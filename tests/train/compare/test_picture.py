"""The picture: a distinct style for every run, no overlaps, units on the axes."""

import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from tests.train.compare_runs import write_run
from train.compare.curves import Curve, chain_stages
from train.compare.page import _tracks
from train.compare.picture import build_figure, curve_style, render, visible_points
from train.compare.read import read_folder
from train.compare.table import ComparisonRow


@pytest.mark.parametrize("count", [1, 2, 12])
def test_nothing_overlaps_and_all_names_are_inside(twelve: list[ComparisonRow], count: int) -> None:
    figure = build_figure([row.curve for row in twelve[:count]], "loss", 1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    *panels, beside = figure.axes
    legend = beside.get_legend().get_window_extent()
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0
    boxes = [axes.get_tightbbox() for axes in panels]
    for index, box in enumerate(boxes):
        assert not box.overlaps(legend)
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
    for axes in panels:
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert not any(one.overlaps(other) for one, other in pairwise(labels))
    assert len(beside.get_legend().get_texts()) == count + 1


def test_each_corpus_of_validation_has_a_panel(mixed: list[ComparisonRow], twelve: list[ComparisonRow]) -> None:
    curves = [row.curve for row in mixed]
    _, _, _, *validation, _ = build_figure(curves, "loss", 5).axes
    assert [axes.get_ylabel() for axes in validation] == [
        f"validation on {corpus} (bits per byte)" for corpus in ("nl", "multi", "mono")
    ]
    assert {axes.get_xlabel() for axes in validation} == {"tokens"}
    for axes in validation:
        values = {at.record.get(f"bits_per_byte/{axes.get_ylabel().split()[2]}") for at in curves[0].totals()}
        assert set(axes.lines[0].get_ydata()) <= values, "not smoothed"
        alone = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_linestyle() == "-"]
        assert len(alone) == 1 and alone[0].get_zorder() > 3, "seen above the diamonds"
    for stage in (stage for row in twelve[:1] for stage in row.curve.stages):
        unscored = [record for record in stage.records if "loss" in record]
        assert len(build_figure([Curve("a", [replace(stage, records=unscored)])], "loss", 1).axes) == 4
    assert len(build_figure(curves, "bits_per_byte/nl", 1).axes) == 3 + 2 + 1, "each corpus once"


def test_a_run_hides_no_point_of_the_one_it_continues(tmp_path: Path) -> None:
    """The child has no score on nl in its own stage, and the parent has one: only the parent is drawn there."""
    parent = write_run(tmp_path, "parent", stages="nl", records=10)
    child = write_run(tmp_path, "child", f"stages.mono.init_from={parent}", stages="mono", records=20)
    lines = [json.loads(line) for line in (child / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("bits_per_byte/nl", None)
    (child / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = chain_stages([read_folder(parent), read_folder(child)])
    assert [len(visible_points(curve, curve.points("bits_per_byte/nl"))) for curve in curves] == [1, 0]
    assert [len(visible_points(curve, curve.points("bits_per_byte/mono"))) for curve in curves] == [1, 3]
    own = [{key for track in _tracks(curve, 100) for key in track["values"]} for curve in curves]
    assert "bits_per_byte/nl" in own[0] and "bits_per_byte/nl" not in own[1] and "bits_per_byte/mono" in own[1]
    axes = build_figure(curves, "bits_per_byte/mono", 1).axes[0]
    line, diamond = axes.lines[0], next(one for one in axes.lines if one.get_marker() == "D" and len(one.get_xdata()))
    assert list(line.get_xdata()) == list(diamond.get_xdata()) and line.get_zorder() > diamond.get_zorder()


def test_axes_have_units_and_stages_their_names(twelve: list[ComparisonRow]) -> None:
    figure = build_figure([row.curve for row in twelve], "loss", 5)
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["tokens", "training time (minutes)", "model FLOPs"]
    assert {axes.get_ylabel() for axes in figure.axes[:3]} == {"training loss (nats per token)"}
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["multi", "mono"]
    assert "mean of 5 records" in figure.get_suptitle()


def test_stages_that_begin_together_are_named_together_and_absent_runs_are_told(mixed: list[ComparisonRow]) -> None:
    figure = build_figure([row.curve for row in mixed], "loss", 1)
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["mono, multi", "mono"]
    assert "1 of 4 runs did not record it" in [text.get_text() for text in figure.axes[1].texts]


def test_twenty_four_runs_have_styles_of_their_own() -> None:
    assert len({curve_style(index) for index in range(24)}) == 24


@pytest.mark.parametrize("metric", ["loss", "bits_per_byte/mono"])
def test_the_files_are_pictures_with_every_colour(twelve: list[ComparisonRow], metric: str) -> None:
    curves = [row.curve for row in twelve]
    pixels = imread(io.BytesIO(render(curves, metric, 1, "png")))[..., :3].reshape(-1, 3)
    for index in range(6):
        wanted = [int(curve_style(index)[0][place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert (abs(pixels - wanted).max(axis=1) < 0.02).sum() > 300
    assert b"<svg" in render(curves[:1], metric, 1, "svg")
