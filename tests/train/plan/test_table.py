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
