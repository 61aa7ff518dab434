"""The picture: a distinct style for every run, no overlaps, units on the axes."""

import io
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from train.compare.picture import build_figure, curve_style, render
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
