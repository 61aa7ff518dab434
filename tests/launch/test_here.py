"""Runs on this machine: tried again while they come further, and left tidy by whatever ends them."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.run_lock import run_lock
from launch.here import LaunchPlan, train_until_ended
from launch.processes import ending_on_signals


def tries_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int], steps: list[int]
) -> tuple[int, list[float]]:
    """The exit code of a run whose tries end with `codes` after `steps`, and the pauses between them."""
    plan = LaunchPlan([], compose_settings([f"run.root={folder}", "cluster.restarts=2"]), 1, True, [])
    plan.folder.mkdir(exist_ok=True)
    (plan.folder / "metrics.jsonl").write_text('{"stage": "nl", "step": 0, "loss": 1.0}\n')
    pauses: list[float] = []
    ends = zip(codes, steps, strict=True)

    def end(*_: object) -> int:
        code, step = next(ends)
        (plan.folder / "metrics.jsonl").write_text(json.dumps({"stage": "nl", "step": step, "loss": 1.0}) + "\n")
        return code

    monkeypatch.setattr("launch.here.train_here", end)
    monkeypatch.setattr("launch.here.time.sleep", pauses.append)
    return train_until_ended(plan, [], {}), pauses


@pytest.mark.parametrize(
    ("codes", "steps", "code", "pauses"),
    [
        ([1, 247, 0], [10, 20, 30], 0, [10, 10]),  # each came further
        ([1, 1, 1, 1], [10, 10, 10, 10], 1, [10, 20]),  # the same step fails again and again
        ([5, 0], [0, 30], 0, [10]),  # a hang
        ([3], [0], 3, []),  # unfit before the first step
        ([3, 0], [10, 30], 0, [10]),  # a node was lost
        ([4], [10], 4, []),
        ([2], [10], 2, []),
        ([75], [10], 75, []),
        ([143], [10], 143, []),
    ],
)
def test_a_failure_is_tried_again_while_it_comes_further(
    codes: list[int], steps: list[int], code: int, pauses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tries_of(tmp_path, monkeypatch, codes, steps) == (code, pauses)


def test_a_signal_between_two_commands_leaves_no_lock(tmp_path: Path) -> None:
    """As while it waits to try again: the next launch would be refused for a minute."""
    with pytest.raises(SystemExit) as ended, ending_on_signals(), run_lock(tmp_path / "run", "one", 60.0):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert ended.value.code == 128 + signal.SIGTERM
    assert list((tmp_path / "run").iterdir()) == []
