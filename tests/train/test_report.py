"""The table and the picture of a run."""

import json
from pathlib import Path

import PIL.Image
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from conf.compose import compose_settings
from conf.run_folder import append_records, write_json
from train.report import plot_schedule, plot_stages, print_table, read_scores, write_markdown
from train.schedule import learning_rate

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


def test_a_corpus_that_came_or_went_with_an_extension_has_a_dash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"nl": {"nl": 2.4, "multi": 3.1}, "mono": {"nl": 2.7, "mono": 1.8}}
    print_table(scores)
    write_markdown(scores, tmp_path / "stages.md")
    written = (tmp_path / "stages.md").read_text()
    assert "| after stage | nl | multi | mono |\n|---|---:|---:|---:|\n| nl | 2.400 | 3.100 | - |" in written
    assert "| mono | 2.700 | - | 1.800 |" in written
    printed = capsys.readouterr().out
    assert all(figure in printed for figure in ("3.100", "1.800"))
    plot_stages(scores, tmp_path / "stages.png")


@pytest.mark.parametrize(
    ("stages", "corpora"), [(["nl", "multi", "mono"], 1), ([f"stage{n}-long-name" for n in range(6)], 2)]
)
def test_every_stage_is_in_the_picture_s_legend(
    stages: list[str], corpora: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[list[str], Bbox, Bbox, float]] = []

    def measure(figure: Figure, *_: object, **__: object) -> None:
        figure.canvas.draw()
        (legend,) = figure.legends
        names = [text.get_text() for text in legend.get_texts()]
        found.append((names, legend.get_window_extent(), figure.axes[0].get_window_extent(), figure.bbox.width))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", measure)
    plot_stages({stage: {f"corpus{n}": 1.0 + n for n in range(corpora)} for stage in stages}, tmp_path / "stages.png")
    ((names, legend, bars, width),) = found
    assert names == [f"after {stage}" for stage in stages]
    assert legend.x0 >= 0 and legend.x1 <= width and legend.y0 >= 0 and legend.y1 <= bars.y0


def test_a_stage_of_one_step_is_seen_in_the_schedule(tmp_path: Path) -> None:
    words = [f"stages.nl.{key}" for key in ("steps=1", "warmup_steps=0", "anneal_steps=1")]
    plot_schedule(compose_settings(["stage=nl", *words]), tmp_path)
    pixels = imread(tmp_path / "schedule.png")[..., :3]
    blue = (abs(pixels - [0x00 / 255, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.05).nonzero()
    assert blue[1].min() < 0.6 * pixels.shape[1], "not only in the legend"


def test_an_extended_stage_is_drawn_as_it_went_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"stages.nl.{key}" for key in ("steps=40", "warmup_steps=0", "anneal_steps=40", "global_batch_size=8")]
    extended, record = compose_settings(["stage=nl", *words]), {"stage": "nl", "tokens": 0}
    (tmp_path / "stages/nl").mkdir(parents=True)
    entry = {"after_step": 20, "after_samples": 20 * 4, "batch_before": 4, "new_data": False, "changed": {}}
    write_json(tmp_path / "stages/nl/extensions.json", [entry])
    rates = {step: 0.01 + step / 1000 for step in range(1, 21)}
    append_records(tmp_path / "metrics.jsonl", [{**record, "step": n, "learning_rate": r} for n, r in rates.items()])
    append_records(tmp_path / "metrics.jsonl", [{**record, "step": 20, "bits_per_byte/nl": 2.0}])
    drawn: list[tuple[list[float], list[float]]] = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot", lambda _, x, y, label, **keys: drawn.append((list(x), list(y))) if label else None
    )
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda *_, **__: None)
    plot_schedule(extended, tmp_path)
    ((places, values),) = drawn
    assert values[:20] == list(rates.values()) and values[20] == learning_rate(extended.stages["nl"], 21)
    context = extended.model.context_length
    assert places[19:21] == [20 * 4 * context, (20 * 4 + 8) * context] and places[-1] == (20 * 4 + 20 * 8) * context


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
    plot_schedule(compose_settings(["stages.multi.schedule=wsd", "stages.mono.steps=1"]), tmp_path)
    pixels = imread(tmp_path / "schedule.png")[..., :3]
    blue = (abs(pixels - [0x00 / 255, 0x72 / 255, 0xB2 / 255]).max(axis=-1) < 0.05).nonzero()
    orange = (abs(pixels - [0xE6 / 255, 0x9F / 255, 0x00 / 255]).max(axis=-1) < 0.05).nonzero()
    assert blue[0].min() < orange[0].min(), "the peak of nl, 4e-3, is above that of multi, 3e-3"
    assert orange[0].max() > 1.5 * orange[0].min(), "both come down"
