"""`sync` finds what W&B's server lacks: offline runs, and online ones whose server was lost."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from conf.run_folder import WANDB_UNSENT
from launch import control


def test_sync_uploads_offline_runs_and_unsent_ones_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    names = ("run-20260102_000000-a", "offline-run-20260101_000000-a", "offline-run-20260103_000000-a")
    for name in (*names, "run-20260104_000000-a", "offline-run-20260105_000000-a"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb" / names[0] / WANDB_UNSENT).touch()
    (tmp_path / "wandb/offline-run-20260105_000000-a/run-a.wandb.synced").touch()
    asked: list[Path] = []

    def upload(command: list[str], **options: Any) -> None:
        asked.extend(Path(word) for word in command[4:])
        for path in asked:
            (path / "run-a.wandb.synced").touch()

    monkeypatch.setattr(subprocess, "run", upload)
    assert control.sync([str(tmp_path)]) == 0
    assert [path.name for path in asked] == [names[1], names[0], names[2]]
    assert control.sync([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["3 uploaded", "everything is synchronised"]
