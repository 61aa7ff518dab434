"""Mean and standard deviation over seeds, by hand and by the groups."""

import csv
import io
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import pytest
from rich.console import Console

from tests.train.compare_runs import write_run
from train.compare.curves import chain_stages
from train.compare.read import read_folder
from train.compare.seeds import seed_groups, with_means
from train.compare.table import ComparisonRow, build_rows, print_tables
from train.compare.write import write_table


def test_runs_that_differ_in_the_seed_alone_are_a_group(swept: list[ComparisonRow]) -> None:
    (group,) = seed_groups(swept)
    assert group.label == "a"
    assert [row.label for row in group.rows] == ["a-seed_1", "a-seed_2", "a-seed_3"]
    line, losses = group.mean(), [row.metrics["loss"] for row in group.rows]
    assert line.metrics["loss"] == pytest.approx(mean(losses))
    assert line.spreads["loss"] == pytest.approx(stdev(losses))
    assert line.metric("loss") == f"{mean(losses):.4f} ± {stdev(losses):.4f}"
    assert (line.setting("run.seed"), line.state) == ("1, 2, 3", "2 of 3 finished")
    order = [row.label for row in with_means(swept, [group])]
    assert order == ["a-seed_1", "a-seed_2", "a-seed_3", "a, mean of 3 seeds", "b-seed_1"]


def test_a_metric_that_one_run_lacks_is_the_mean_of_the_others(swept: list[ComparisonRow]) -> None:
    rows = [replace(row, metrics={**row.metrics, "mfu": None if row is swept[0] else 0.5}) for row in swept]
    line = seed_groups(rows)[0].mean()
    assert (line.metrics["mfu"], line.spreads["mfu"]) == (0.5, 0.0)


def test_the_same_seed_twice_is_no_group(tmp_path: Path) -> None:
    runs = [read_folder(write_run(tmp_path, name, "run.seed=1", stages="nl", records=10)) for name in "ab"]
    assert seed_groups(build_rows(chain_stages(runs), 1, None)) == []


def test_each_seed_may_go_on_from_a_parent_of_its_own_seed(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        parent = write_run(tmp_path, f"base{seed}", f"run.seed={seed}", stages="nl", records=10)
        runs.append(
            write_run(tmp_path, f"tuned{seed}", f"run.seed={seed}", f"stages.mono.init_from={parent}", stages="mono")
        )
    (group,) = seed_groups(build_rows(chain_stages([read_folder(run) for run in runs]), 1, None))
    assert (group.label, len(group.rows[0].curve.stages)) == ("tuned", 2)


def test_runs_from_other_weights_are_no_seeds_of_each_other(tmp_path: Path) -> None:
    runs = []
    for source, seed in product("ab", (1, 2)):
        run = write_run(tmp_path, f"{source}{seed}", f"run.seed={seed}", stages="nl", records=10)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("init_from: null", f"init_from: owner/{source}"))
        runs.append(read_folder(run))
    groups = seed_groups(build_rows(chain_stages(runs), 1, None))
    assert [sorted(row.curve.label for row in group.rows) for group in groups] == [["a1", "a2"], ["b1", "b2"]]


def test_every_table_has_the_mean_and_the_deviation(swept: list[ComparisonRow], tmp_path: Path) -> None:
    line = seed_groups(swept)[0].mean()
    out = io.StringIO()
    print_tables(with_means(swept, seed_groups(swept)), Console(file=out, width=200), None, 1)
    assert "a, mean of 3 seeds" in out.getvalue()
    assert line.metric("loss") in out.getvalue()
    assert any(row.split("│")[1].strip() == "1-3" for row in out.getvalue().splitlines() if row.count("│") > 2)
    for kind in ("csv", "json", "markdown"):
        write_table(tmp_path / kind, kind, swept, None, 1)
    with (tmp_path / "csv").open(newline="") as file:
        table = {row["run"]: row for row in csv.DictReader(file)}
    assert float(table["a, mean of 3 seeds"]["loss"]) == line.metrics["loss"]
    assert float(table["a, standard deviation of 3 seeds"]["loss"]) == line.spreads["loss"]
    (seeds,) = json.loads((tmp_path / "json").read_text())["seeds"]
    assert (seeds["mean"]["loss"], seeds["std"]["loss"]) == (line.metrics["loss"], line.spreads["loss"])
    assert seeds["runs"] == ["a-seed_1", "a-seed_2", "a-seed_3"]
    assert f"| {line.metric('loss')} |" in (tmp_path / "markdown").read_text()
