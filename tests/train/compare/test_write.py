"""CSV, JSON and Markdown files of the tables."""

import csv
import json
from pathlib import Path

from tests.train.compare.conftest import HOSTILE
from train.compare.table import ComparisonRow
from train.compare.write import write_table


def test_csv_json_and_markdown_hold_the_same_rows(mixed: list[ComparisonRow], tmp_path: Path) -> None:
    for kind in ("csv", "json", "markdown"):
        write_table(tmp_path / kind, kind, mixed, 2.2, 1)
    with (tmp_path / "csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    value = json.loads((tmp_path / "json").read_text())
    assert [line["run"] for line in lines] == [run["run"] for run in value["runs"]] == ["base", HOSTILE, "old", "tuned"]
    for line, run, row in zip(lines, value["runs"], mixed, strict=True):
        assert float(line["loss"]) == run["metrics"]["loss"] == row.metrics["loss"]
        assert line["optimizer.weight_decay"] == str(run["settings"]["optimizer.weight_decay"])
    assert lines[2]["device_hours"] == ""
    assert value["runs"][2]["metrics"]["device_hours"] is None
    assert value["loss_to_reach"] == 2.2
    table = [line for line in (tmp_path / "markdown").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1, "a name does not make a column"
