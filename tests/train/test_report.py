"""The table and the picture of a run."""

import json
from pathlib import Path

import PIL.Image
import pytest
from matplotlib.image import imread

from conf.compose import compose_settings
from conf.run_folder import write_json
from train.report import plot_schedule, plot_stages, print_table, read_scores, write_markdown

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


def test_the_readmes_picture_is_what_a_quickstart_draws(tmp_path: Path) -> None:
    """Its own scores, drawn anew, are the same picture, and each stage is best at its own corpus, as README says."""
    kept = Path(__file__).parents[2] / "launch/quickstart.png"
    scores = json.loads(PIL.Image.open(kept).info["Description"])
    quickstart = compose_settings(["experiment=quickstart"])
    assert list(scores) == list(quickstart.stages)
    for stage, settings in quickstart.stages.items():
        own = [scores[name][settings.corpus] for name in quickstart.stages]
        assert min(own) == scores[stage][settings.corpus] and list(scores[stage]) == list(quickstart.data.corpora)
    plot_stages(scores, tmp_path / "again.png")
    before, now = imread(kept), imread(tmp_path / "again.png")
    assert before.shape == now.shape and abs(before - now).mean() < 0.01


def test_the_schedule_is_drawn_from_its_first_step_to_its_last(tmp_path: Path) -> None:
    plot_schedule(compose_settings(["stages.multi.schedule=wsd", "stages.mono.steps=1"]), tmp_path / "schedule.png")
    pixels = imread(tmp_path / "schedule.png")[..., :3]
    blue = (abs(pixels - [0x00 / 255, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.05).nonzero()
    orange = (abs(pixels - [0xE6 / 255, 0x9F / 255, 0x00 / 255]).max(axis=-1) < 0.05).nonzero()
    assert blue[0].min() < orange[0].min(), "the peak of nl, 4e-3, is above that of multi, 3e-3"
    assert orange[0].max() > 1.5 * orange[0].min(), "both come down"
