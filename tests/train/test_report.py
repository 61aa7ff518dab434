"""The table and the picture of a run."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from conf.run_folder import write_json
from train.report import plot_stages, print_table, read_scores, write_markdown

SCORES = {"nl": {"nl": 2.4, "multi": 3.1}, "multi": {"nl": 2.7, "multi": 1.8}}


def test_scores_are_read_in_the_order_of_the_stages(tmp_path: Path) -> None:
    for order, stage in enumerate(SCORES):
        write_json(
            tmp_path / "stages" / stage / "evaluation.json",
            {"stage": stage, "order": order, "bits_per_byte": SCORES[stage]},
        )
    assert read_scores(tmp_path) == SCORES
    assert list(read_scores(tmp_path)) == ["nl", "multi"]


def test_table_and_markdown_hold_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(SCORES)
    write_markdown(SCORES, tmp_path / "stages.md")
    for text in (capsys.readouterr().out, (tmp_path / "stages.md").read_text()):
        assert all(figure in text for figure in ("2.400", "3.100", "2.700", "1.800", "lower is better"))


def test_the_picture_shows_a_bar_for_each_figure(tmp_path: Path) -> None:
    plot_stages(SCORES, tmp_path / "stages.png")
    pixels = imread(tmp_path / "stages.png")[..., :3].reshape(-1, 3)
    for red, green, blue in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):
        near = abs(pixels - [red / 255, green / 255, blue / 255]).max(axis=1) < 0.02
        assert near.sum() > 5000
