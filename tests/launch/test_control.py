"""`cancel` and `logs` on any kind of cluster; `sync` finds what the server of W&B lacks."""

import os
import platform
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conf.errors import ConfigError
from conf.run_folder import WANDB_UNSENT
from conf.run_lock import run_lock, stop_file
from launch import control
from launch.jobs import add_job


def test_sync_uploads_offline_runs_and_unsent_ones_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    names = ("run-20260102_000000-a", "offline-run-20260101_000000-a", "offline-run-20260103_000000-a")
    for name in (*names, "run-20260104_000000-a", "offline-run-20260105_000000-a"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        (tmp_path / "wandb" / name / "run-a.wandb").touch()
    (tmp_path / "wandb/offline-run-20260106_000000-a/files").mkdir(parents=True)  # W&B did not start
    (tmp_path / "wandb" / names[0] / WANDB_UNSENT).touch()
    (tmp_path / "wandb/offline-run-20260105_000000-a/run-a.wandb.synced").touch()
    asked: list[Path] = []

    def upload(command: list[str], **options: Any) -> None:
        asked.extend(Path(word) for word in command[5:])
        for path in asked:
            (path / "run-a.wandb.synced").touch()

    monkeypatch.setattr(subprocess, "run", upload)
    assert control.sync([str(tmp_path)]) == 0
    assert [path.name for path in asked] == [names[1], names[0], names[2]]
    assert control.sync([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["3 uploaded", "everything is synchronised"]


def test_a_run_on_another_host_is_cancelled_by_its_stop_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").touch()
    monkeypatch.setattr("conf.run_lock.node_name", lambda: "elsewhere")
    with run_lock(tmp_path, "its-launcher", 60.0):
        add_job(tmp_path, "local", str(os.getpid()), ["nl"], "elsewhere", "jobs/local.log", "jobs/local.exit")
        assert control.cancel([str(tmp_path)]) == 0
        assert stop_file(tmp_path, "its-launcher").is_file()
    assert "is asked to stop" in capsys.readouterr().out
    assert control.cancel([str(tmp_path)]) == 0, "its lock is gone: it has ended"
    assert "nothing is under way" in capsys.readouterr().out


def test_logs_follow_on_while_slurm_does_not_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").touch()
    add_job(tmp_path, "slurm", "7", ["nl"], "", "jobs/nl.log", "jobs/nl.exit")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/nl.log").write_text("step 1\n")
    answers = iter([ConfigError("squeue fails"), {"7": ("running", "")}, {}])

    def queue() -> dict[str, tuple[str, str]]:
        with (tmp_path / "jobs/nl.log").open("a") as file:
            file.write("step\n")
        answer = next(answers)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    monkeypatch.setattr("launch.slurm.queue", queue)
    monkeypatch.setattr(control, "FOLLOW_SECONDS", 0)
    assert control.logs(["-f", str(tmp_path)]) == 0
    assert capfd.readouterr().out.splitlines() == ["step 1", "step", "step", "step"]


def test_a_second_cancel_does_not_kill_what_is_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher takes a second signal for a person who does not want to wait."""
    (tmp_path / "config.yaml").touch()
    (tmp_path / "jobs").mkdir()
    add_job(tmp_path, "local", str(os.getpid()), ["nl"], platform.node(), "jobs/local.log", "jobs/local.exit")
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number) if number else None)  # 0: is it there
    for _ in range(2):
        assert control.cancel([str(tmp_path)]) == 0
    assert sent == [signal.SIGTERM]
    assert "was asked to stop before, and ends when it has saved" in capsys.readouterr().out
    add_job(tmp_path, "local", str(os.getpid()), ["nl"], platform.node(), "jobs/local.log", "jobs/local.exit")
    assert control.cancel([str(tmp_path)]) == 0
    assert sent == [signal.SIGTERM] * 2, "another try"
