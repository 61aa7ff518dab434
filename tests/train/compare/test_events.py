"""Events of health.jsonl are a panel of the page and a line below the tables."""

from pathlib import Path

from conf.run_folder import append_records
from tests.train.compare_runs import write_run
from train.compare.curves import chain_stages
from train.compare.events import EVENTS, count_events, describe_events, read_events
from train.compare.page import render_page, sections
from train.compare.read import read_folder
from train.compare.table import build_rows, reading_notes

ROWS = [
    {"step": 90, "event": "not taken", "what": "the step is not taken: loss nan"},
    {"step": 120, "event": "spike", "what": "a spike: loss 9"},
    {"step": None, "event": "rewind", "what": "stage mono, step 120: a spike", "samples": [3, 4]},
]


def test_events_are_counted_along_a_stage(tmp_path: Path) -> None:
    path = tmp_path / "health.jsonl"
    assert read_events(path) == [] and count_events([{"step": 1, "loss": 2.0}], []) == [{"step": 1, "loss": 2.0}]
    append_records(path, ROWS)
    with path.open("a") as file:
        file.write("no JSON\n")
    events = read_events(path)
    assert [(step, kind) for step, kind, _ in events] == [(90, "not taken"), (120, "spike"), (120, "rewind")]
    rows = count_events([{"step": step, "loss": 1.0} for step in (80, 90, 120)] + [{"step": 120}], events)
    assert [row.get(EVENTS) for row in rows] == [0, 1, 3, None]
    assert describe_events("mono", events) == (
        "mono had 1 steps not taken, 1 spikes, 1 returns to a checkpoint; the last, step 120: stage mono, step 120: "
        "a spike"
    )


def test_the_page_shows_them_for_the_runs_that_have_some(tmp_path: Path) -> None:
    bad, good = (write_run(tmp_path, name, stages="mono") for name in ("bad", "good"))
    append_records(bad / "stages/mono/health.jsonl", ROWS)
    rows = build_rows(chain_stages([read_folder(run) for run in (bad, good)]), 1, None)
    (note,) = (line for line in reading_notes(rows, None, 1) if "spikes" in line)
    assert note.startswith("bad: mono had 1 steps not taken") and note in render_page(rows, None, 1)
    titles = [panel["title"] for part in sections([EVENTS, "loss"]) for panel in part["metrics"]]
    assert titles == ["loss (nats per token)", "skipped steps, spikes, rewinds"]
