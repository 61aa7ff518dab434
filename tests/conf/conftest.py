"""A run's folder that holds a run, for the tests of what may become of it."""

from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.run_folder import save_settings
from conf.schema import Settings


def asked(root: Path, *words: str) -> Settings:
    return compose_settings([f"run.root={root}", "run.name=mine", *words])


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A root whose folder `mine` holds a run of the defaults that has recorded a step."""
    folder = tmp_path / "mine"
    folder.mkdir()
    save_settings(asked(tmp_path), folder)
    (folder / "metrics.jsonl").touch()
    begin(tmp_path, "nl")
    return tmp_path


def begin(root: Path, *stages: str, step: int = 0) -> None:
    """Mark stages as begun, with a checkpoint after `step`."""
    for stage in stages:
        folder = root / "mine/stages" / stage
        folder.mkdir(parents=True, exist_ok=True)
        if step:
            (folder / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
