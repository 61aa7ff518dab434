"""Runs of older versions: what they saved is kept, what has changed since does no harm."""

from pathlib import Path

import pytest
import yaml

from conf.compose import load_settings
from conf.errors import ConfigError
from conf.older import load_older
from conf.schema import plain
from tests.train.compare_runs import write_run
from train.compare.read import read_folder, read_settings


def test_a_runs_settings_of_this_version_are_the_same_either_way(tmp_path: Path) -> None:
    path = write_run(tmp_path, "one", "optimizer.weight_decay=0.3", stages="multi,mono", records=10) / "config.yaml"
    assert plain(load_older(path)) == plain(read_settings(path))


def test_an_older_runs_settings_are_kept_and_new_ones_have_their_defaults(tmp_path: Path) -> None:
    run = write_run(tmp_path, "one", "optimizer.weight_decay=0.3", stages="multi,mono", records=10)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    saved["experiment"] = "gone"
    saved["optimizer"]["gone"] = 1
    saved["stages"]["mono"]["gone"] = 1
    del saved["health"], saved["tracking"]["wandb_seconds"], saved["stages"]["mono"]["handover"]
    (run / "config.yaml").write_text(yaml.safe_dump(saved, sort_keys=False))
    settings = read_folder(run)[-1].settings
    assert plain(settings) == plain(load_settings(run / "config.yaml")), "it can go on, and be sampled from"
    assert (settings.optimizer.weight_decay, list(settings.stages)) == (0.3, ["multi", "mono"])
    assert (settings.tracking.wandb_seconds, settings.stages["mono"].handover.name) == (30, "weights")
    assert settings.stages["mono"].steps == 100


@pytest.mark.parametrize("text", ["- 1", "model: {n_layer: many}", "{"])
def test_a_damaged_file_is_still_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_settings(tmp_path / "config.yaml")
