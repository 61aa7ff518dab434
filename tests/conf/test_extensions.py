"""A run goes on with other settings or documents: what changed is recorded, and what was read is still known."""

import json
import shutil
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.extensions import (
    data_position,
    data_under_way,
    other_documents,
    read_extensions,
    record_extension,
    samples_done,
)
from conf.run_folder import append_records, read_metrics, save_settings, write_json
from tests.conf.conftest import asked, begin


def test_an_extension_is_recorded_and_reopens_the_stage(held: Path) -> None:
    begin(held, "nl", step=100)
    folder = held / "mine"
    append_records(folder / "metrics.jsonl", [{"stage": "nl", "step": step, "loss": 1.0} for step in (99, 100, 101)])
    write_json(folder / "stages/nl/evaluation.json", {})
    for step in (100, 110):
        (folder / f"stages/nl/evaluations/humaneval_step_{step:09d}").mkdir(parents=True)
    longer = asked(held, "stages.nl.steps=240", "stages.nl.global_batch_size=32", "run.extend=true")
    record_extension(longer)
    save_settings(longer, folder)
    assert [row["step"] for row in read_metrics(folder)] == [99, 100], "the later ones are taken again"
    assert [path.name for path in (folder / "stages/nl/evaluations").iterdir()] == ["humaneval_step_000000100"]
    assert not (folder / "stages/nl/evaluation.json").exists()
    before = (folder / "stages/nl/extensions.json").read_text()
    assert '"stages.nl.steps": [\n        120,\n        240' in before and '"after_step": 100' in before
    record_extension(longer)
    assert (folder / "stages/nl/extensions.json").read_text() == before, "the same command again changes nothing"


def test_other_documents_are_refused_or_read_from_their_beginning(held: Path) -> None:
    """Files that have changed, or a repository with further commits: the settings are the same."""
    folder, read = held / "mine", {"nl": "a", "multi": "b", "mono": "c"}
    write_json(folder / "data.json", {"folder": "prepared", "digests": read})
    begin(held, "nl", step=100)
    other = {**read, "nl": "d"}
    assert other_documents(asked(held), read) == {}
    assert other_documents(asked(held), {**read, "multi": "d"}) == {}, "no step has read of them"
    with pytest.raises(ConfigError, match=r"documents of data\.corpora\.nl are others than stage nl has read .*extend"):
        other_documents(asked(held), other)
    extended = asked(held, "run.extend=true")
    found = other_documents(extended, other)
    assert found == {"data.corpora.nl": ["a", "d"]}
    record_extension(extended, found)
    (entry,) = read_extensions(folder, "nl")
    assert entry["new_data"] and entry["after_step"] == 100
    assert data_position([entry], 100, extended.stages["nl"]) == 0
    shutil.rmtree(folder / "stages/nl/checkpoints")
    assert other_documents(asked(held), other) == {}, "it begins again"


def test_the_data_under_way_is_that_of_a_stage_that_has_saved_and_goes_on(held: Path) -> None:
    folder = held / "mine"
    assert data_under_way(asked(held)) is None
    write_json(folder / "data.json", {"folder": "prepared", "digests": {}})
    assert data_under_way(asked(held)) is None, "no step is saved: it begins again"
    begin(held, "nl", step=100)
    assert data_under_way(asked(held)) == ("nl", "prepared")
    assert data_under_way(asked(held, "run.extend=true")) is None
    (folder / "stages/nl/weights").mkdir()
    write_json(folder / "stages/nl/evaluation.json", {})
    assert data_under_way(asked(held)) is None


def test_an_annealed_wsd_stage_goes_back_to_where_it_was_stable(held: Path) -> None:
    folder, wsd = held / "mine", ["stages.nl.schedule=wsd", "run.extend=true"]
    save_settings(asked(held, *wsd), folder)
    begin(held, "nl", step=108)
    begin(held, "nl", step=120)
    record_extension(asked(held, *wsd, "stages.nl.steps=240"))
    assert [path.name for path in (folder / "stages/nl/checkpoints").iterdir()] == ["step_00000108"]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["stages.nl.steps=240"], {"step": 80, "seen": 100, "no_better": 0, "extended_at": 100}),
        (["stages.nl.steps=240", "data.validation_fraction=0.1"], None),
        (["stages.nl.steps=240", "stages.nl.schedule=wsd"], None),
    ],
)
def test_an_extended_stage_has_its_best_weights_to_beat(held: Path, words: list[str], left: dict[str, int]) -> None:
    """Its patience begins anew; with other data, or an annealing undone, the scores say nothing any more."""
    best = held / "mine/stages/nl/best.json"
    if "stages.nl.schedule=wsd" in words:
        save_settings(asked(held, "stages.nl.schedule=wsd"), held / "mine")
        begin(held, "nl", step=108)
    begin(held, "nl", step=120 if left is None else 100)
    write_json(best, {"step": 80, "seen": 120, "no_better": 3})
    record_extension(asked(held, *words, "run.extend=true"))
    assert (json.loads(best.read_text()) if best.exists() else None) == left


def test_samples_are_counted_over_changes_of_the_batch_and_the_data() -> None:
    stage = compose_settings(["stages.nl.global_batch_size=8"]).stages["nl"]
    changed = [
        {"after_step": 10, "after_samples": 160, "batch_before": 16, "new_data": True},
        {"after_step": 20, "after_samples": 480, "batch_before": 32, "new_data": False},
    ]
    assert [samples_done(changed, step, stage) for step in (0, 5, 10, 15, 20, 25)] == [0, 80, 160, 320, 480, 520]
    assert data_position(changed, 25, stage) == 360 and data_position([], 5, stage) == 40
