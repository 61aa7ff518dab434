"""Goodput against an arithmetic that counts hours, and from what a run has measured."""

import random
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.run_folder import METRICS, append_records
from conf.save_time import SAVES
from train.plan.goodput import goodput, hours_a_failure, predict_goodput


def test_it_is_what_a_simulated_run_keeps() -> None:
    """Failures at random moments; saves and restarts take their time; what follows the last whole save is lost."""
    between, stall, drain, restart, hours = 600.0, 6.0, 120.0, 900.0, 20.0
    chance, kept, wall = random.Random(0), 0.0, 0.0
    for _ in range(20000):
        lasts = chance.expovariate(1 / (hours * 3600))
        wall += lasts
        rounds = max(0.0, (lasts - restart - drain) // (between + stall))
        kept += rounds * between
    assert goodput(between, stall, drain, restart, hours) == pytest.approx(kept / wall, abs=0.005)


def test_512_gpus_fail_every_four_days() -> None:
    assert hours_a_failure(16_384) == pytest.approx(54 * 24 / 419)
    assert hours_a_failure(512) == pytest.approx(98.97, abs=0.01)


def test_what_the_run_has_measured_replaces_what_is_assumed(tmp_path: Path) -> None:
    settings = compose_settings(["model=16b", "layout=a100_64"], 64)
    before = predict_goodput(settings, 512, 10.0, tmp_path)
    assert len(before["by_restart_seconds"]) == 3 and not before["save_measured"] and not before["restart_measured"]
    assert before["drain_seconds"] == before["stall_seconds"] == pytest.approx(192, abs=2)
    (tmp_path / "stages/nl").mkdir(parents=True)
    cost = {"step": 1000, "stall_seconds": 2.0, "drain_seconds": 40.0, "gigabytes_per_second": 4.8}
    append_records(tmp_path / "stages/nl" / SAVES, [cost])
    append_records(tmp_path / METRICS, [{"stage": "nl", "step": 1, "start_seconds": 200.0}, {"stage": "nl", "step": 2}])
    after = predict_goodput(settings, 512, 10.0, tmp_path)
    assert list(after["by_restart_seconds"]) == ["200"] and after["stall_seconds"] == 2 and after["drain_seconds"] == 40
    assert 0.97 < after["by_restart_seconds"]["200"] < 0.99
