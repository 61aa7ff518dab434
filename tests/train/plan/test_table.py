"""A plan as tables: every stage has its row, and nothing is wider than 100 columns."""

import pytest

from tests.train.plan.test_main import paper_settings
from train.plan.__main__ import summary
from train.plan.planner import plan
from train.plan.table import GIB, show


def test_every_pipeline_stage_has_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    settings = paper_settings(["layout.pipeline_parallel_size=2"])
    stages = plan(settings, 4)
    show(summary(settings, 4, stages))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    stage_rows = [row for row in rows if len(row) == 9][:2]  # tables of traffic and time follow
    assert [row[1] for row in stage_rows] == [f"{stage.first_layer}-{stage.end_layer - 1}" for stage in stages]
    assert [row[-1] for row in stage_rows] == [f"{stage.total / GIB:.2f}" for stage in stages]


def test_how_long_it_takes_is_told_by_stage_and_in_gpu_hours(capsys: pytest.CaptureFixture[str]) -> None:
    settings = paper_settings([])
    figures = summary(settings, 4, plan(settings, 4))
    steps = sum(stage.steps for stage in settings.stages.values())  # all of one batch
    assert sum(figures["stage_seconds"].values()) == pytest.approx(steps * figures["step_seconds"])
    show({**figures, "stage_seconds": {"nl": 36e5, "mono": 3600.0}})
    assert "At that rate: nl 41d16h, mono 1h00m; in all 41d17h, 4,004 GPU hours." in capsys.readouterr().out
