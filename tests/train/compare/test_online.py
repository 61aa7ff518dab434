"""Runs read from W&B's server, through a fake client with the same answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.errors import ConfigError
from conf.run_folder import read_json
from conf.schema import plain
from tests.train.compare_runs import write_run
from train.compare.curves import chain_stages, compute_metrics
from train.compare.online import read_wandb_run
from train.compare.read import StageRecords, read_folder


class Server:
    """Holds stages of a run as W&B would: a row a step, `_step` in it, absent values None."""

    def __init__(self, stages: list[StageRecords], change: dict[str, Any]) -> None:
        self.stages, self.change = {f"team/codegen/{stage.name}": stage for stage in stages}, change

    def run(self, path: str) -> Any:
        if path not in self.stages:
            raise ValueError(f"Could not find run <Run {path} (not found)>\nmore")
        stage = self.stages[path]
        rows: dict[int, dict[str, Any]] = {}
        for row in stage.records:
            values = {key: value for key, value in row.items() if key not in ("stage", "step")}
            rows.setdefault(row["step"], {"_step": row["step"], "loss": None}).update(values)
        lineage = read_json(stage.folder / "lineage.json")
        config = {**plain(stage.settings), "lineage": lineage, "environment": {}, **self.change}
        return SimpleNamespace(config=config, name="x", state="finished", scan_history=lambda: iter(rows.values()))


@pytest.fixture
def stages(tmp_path: Path) -> list[StageRecords]:
    return read_folder(write_run(tmp_path, "one", stages="nl,mono", records=10))


def test_a_run_on_the_server_reads_as_its_folder_does(stages: list[StageRecords]) -> None:
    server = Server(stages, {})
    online = [read_wandb_run(f"wandb:team/codegen/{name}", server) for name in ("nl", "mono")]
    (local,), (remote,) = chain_stages([stages]), chain_stages([online])
    assert remote.points("loss") == local.points("loss")
    assert remote.points("bits_per_byte/nl") == local.points("bits_per_byte/nl")
    assert remote.status() == "finished"
    one, other = (compute_metrics(curve, 1, 2.5) for curve in (local, remote))
    same = ("loss", "tokens_to_loss", "tokens", "flops", "device_hours", "mfu")
    assert [one[key] for key in same] == [other[key] for key in same]


@pytest.mark.parametrize(("patience", "finished"), [(None, False), (3, True)])
def test_a_run_that_was_stopped_is_finished_only_where_its_stage_may_end_early(
    patience: int | None, finished: bool, stages: list[StageRecords]
) -> None:
    del stages[0].records[5:]
    stages[0].settings.stages["nl"].patience = patience
    assert read_wandb_run("wandb:team/codegen/nl", Server(stages, {})).finished is finished


@pytest.mark.parametrize(
    ("word", "change", "said"),
    [
        ("wandb:team/codegen", {}, "write wandb:entity/project/run_id"),
        ("wandb:team/codegen/none", {}, "cannot be read from W&B: Could not find run <Run team/codegen/none"),
        ("wandb:team/codegen/nl", {"lineage": None}, "is no run of this stack"),
        ("wandb:team/codegen/nl", {"model": {"layers": 3}}, "is no run of this stack"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    stages: list[StageRecords], word: str, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_wandb_run(word, Server(stages, change))
    assert "\n" not in str(caught.value)
