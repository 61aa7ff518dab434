"""The warning before a time limit grows with what must be written in it."""

from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.run_folder import append_records
from conf.save_time import checkpoint_bytes, save_seconds, warning_seconds, write_gb_per_second
from model.flops import parameters


@pytest.mark.parametrize(("model", "seconds"), [("tiny", 120), ("350m", 120), ("6b", 230), ("16b", 450)])
def test_a_larger_model_is_warned_earlier(model: str, seconds: int) -> None:
    settings = compose_settings([f"model={model}"])
    assert checkpoint_bytes(settings.model) == 12 * parameters(settings.model)
    assert warning_seconds(settings, 1.0) == seconds
    assert warning_seconds(compose_settings([f"model={model}", "cluster.slurm.signal_seconds=90"]), 1.0) == 90


def test_a_run_that_has_saved_knows_its_speed(tmp_path: Path) -> None:
    assert write_gb_per_second(tmp_path) == 1.0
    (tmp_path / "stages/nl").mkdir(parents=True)
    append_records(tmp_path / "stages/nl/saves.jsonl", [{"gigabytes_per_second": 0.5}, {"gigabytes_per_second": 4.0}])
    assert write_gb_per_second(tmp_path) == 4.0
    model = compose_settings(["model=16b"]).model
    assert save_seconds(model, 4.0) == pytest.approx(48.1, abs=0.1)
