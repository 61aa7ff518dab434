"""git without what its surroundings set."""

import subprocess
from pathlib import Path

import pytest

from conf.errors import DataError
from train.data.git_program import git_environment, git_line


def test_a_hooks_environment_does_not_name_another_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        subprocess.run(["git", "init", "-q", tmp_path / name], check=True, env=git_environment())
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert git_line(str(tmp_path / "one"), "", "rev-parse", "--show-toplevel") == str((tmp_path / "one").resolve())


def test_what_git_says_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^paths: .* cannot be read by git: not a git repository"):
        git_line(str(tmp_path), "paths", "status")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"^paths: the git program cannot be started: No such file.*; install git$"):
        git_line(str(tmp_path), "paths", "status")
