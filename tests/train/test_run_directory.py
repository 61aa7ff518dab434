"""What a run's folder holds once it is open."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conf.compose import load_settings
from conf.errors import ConfigError
from conf.schema import Settings
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from train.run_directory import environment, git_state, open_run


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared/tokenizer"
    SentencePieceTokenizer.train(["def add(a, b):\n    return a + b\n" * 30], 400).save(folder)
    (folder / "note").write_text("a b c")
    return folder


def test_a_run_s_folder_holds_settings_environment_and_tokenizer(
    settings: Settings, tokenizer: Path, tmp_path: Path
) -> None:
    settings = replace(settings, run=replace(settings.run, root=str(tmp_path / "runs"), name="mine"))
    prepared = tokenizer.parent
    folder = open_run(settings, prepared)
    assert folder == tmp_path / "runs/mine"
    assert load_settings(folder / "config.yaml") == settings
    assert (folder / "tokenizer/note").read_text() == "a b c"
    recorded = json.loads((folder / "environment.json").read_text())
    assert recorded["packages"]["torch"] and recorded["devices"] and recorded["command"]
    assert json.loads((folder / "data.json").read_text()) == {"folder": prepared.name, "digests": {}}
    (tokenizer / "note").write_text("other")  # prepared anew: a run that goes on keeps its own
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert (open_run(settings, prepared, {"nl": "a"}) / "tokenizer/note").read_text() == "a b c"
    open_run(settings, prepared, {"mono": "b"})
    assert json.loads((folder / "data.json").read_text())["digests"] == {"nl": "a", "mono": "b"}
    other = replace(settings, optimizer=replace(settings.optimizer, beta2=0.5))
    with pytest.raises(ConfigError, match="holds a different run: optimizer.beta2 was"):  # noqa: RUF043
        open_run(other, prepared)
    SentencePieceTokenizer.train(["other words entirely\n" * 50], 400).save(tokenizer)
    with pytest.raises(ConfigError, match="prepared with another tokenizer than the run's; resume with data"):
        open_run(settings, prepared)


def test_the_code_s_state_is_its_commit_and_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {}

    def git(*words: str) -> None:
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("one\n")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "file").write_text("two\n")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40 and state["status"] == [" M file"] and "+two" in state["diff"]
    assert environment()["python"]
