"""Runs on this machine: tried again while they come further, and left tidy by whatever ends them."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.resume import check_run_folder
from conf.run_folder import save_settings
from conf.run_lock import run_lock
from launch.here import LaunchPlan, open_folder, start_here, train_here, train_until_ended
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
    return train_until_ended(plan, {}), pauses


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


def test_a_run_that_is_to_be_extended_is_as_it_was_until_training_accepts_it(tmp_path: Path) -> None:
    settings = compose_settings(["stage=nl", f"run.root={tmp_path}", "run.name=mine"])
    folder = tmp_path / "mine"
    save_settings(settings, folder)
    (folder / "metrics.jsonl").write_text('{"stage": "nl", "step": 120, "loss": 1.0}\n')
    (folder / "stages/nl/weights").mkdir(parents=True)
    (folder / "stages/nl/evaluation.json").write_text("{}")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["stage=nl", f"run.root={tmp_path}", "run.name=mine", "~data.corpora.multi", "run.extend=true"]
    open_folder(LaunchPlan(words, compose_settings(words), 1, True, ["nl"]))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (folder / "jobs").is_dir() and check_run_folder(settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_two_commands_leaves_no_lock_and_is_not_taken_for_a_save(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As while it waits to try again: the next launch would be refused for a minute."""
    with pytest.raises(SystemExit) as ended, ending_on_signals(), run_lock(tmp_path / "run", "one", 60.0):
        os.kill(os.getpid(), number)
        time.sleep(60)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == "stopped while nothing was being trained\n"
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "saved", "said"),
    [
        (75, 7, "saved; the same command resumes {run} after nl step 7\n"),
        (130, 7, "ended before it had saved; the same command resumes {run} after nl step 7\n"),
        (130, None, "ended before it had saved; the same command resumes {run} from the beginning\n"),
        (1, 7, ""),
    ],
)
def test_what_is_said_of_a_stop_is_what_is_on_the_disk(
    code: int,
    saved: int | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = LaunchPlan([], compose_settings([f"run.root={tmp_path}"]), 1, False, [])
    now = time.time()
    for age, name in enumerate(("step_00000009.partial", f"step_{saved:08d}", "step_00000006") if saved else ()):
        folder = plan.folder / "stages/nl/checkpoints" / name
        folder.mkdir(parents=True)
        os.utime(folder, (now - age, now - age))
    monkeypatch.setattr("launch.here.run", lambda *_: code)
    assert train_here(plan, {}, None) == code
    assert capsys.readouterr().err == said.format(run=plan.folder)
    assert (plan.folder / "jobs/local.exit").read_text() == f"{code}\n"


def test_data_that_cannot_be_prepared_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = LaunchPlan([], compose_settings([f"run.root={tmp_path}/runs"]), 1, False, [])
    monkeypatch.setattr("launch.here.run", lambda *_: 2)
    assert start_here(plan, dry_run=False) == 2
    assert not plan.folder.exists()
    plan.folder.mkdir()
    (plan.folder / "notes").touch()
    assert start_here(plan, dry_run=False) == 2
    assert [path.name for path in plan.folder.iterdir()] == ["notes"]
