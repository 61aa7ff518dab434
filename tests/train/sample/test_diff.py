"""Diffs as a model writes them: what is taken of them, and that git applies them to the very bytes."""

import os
import subprocess
from pathlib import Path

import pytest

from conf.errors import ConfigError
from conf.exit_codes import NOT_APPLIED
from tests.train.sample.cases import finished_run
from train.data.diff_document import diff_prompt, unified_hunks
from train.data.git_program import git_environment
from train.sample.__main__ import main
from train.sample.diff import apply_hunks, hunks_of, name_in_repository, read_before
from train.sample.generator import Generator

BEFORE = "a\nb\nc\nd\ne\nf\n"
AFTER = "a\nb\nC\nd\ne\nf\n"
HUNKS = unified_hunks(BEFORE, AFTER)


@pytest.mark.parametrize(
    ("completion", "hunks"),
    [
        (f" {HUNKS}", HUNKS),
        (f" {HUNKS}<NME> other.py\n+x\n", HUNKS),
        (f" {HUNKS}\n\nThat is all.\n", HUNKS),
        (" @@ -1,2 +1,2 @@\n a\n\n-b\n+cut of", "@@ -1,2 +1,2 @@\n a\n\n-b\n"),
        (" the file is good as it is\n", ""),
        (" @@ -1", ""),
        ("", ""),
    ],
)
def test_a_completion_counts_as_far_as_it_is_a_diff(completion: str, hunks: str) -> None:
    assert hunks_of(completion) == hunks


@pytest.mark.parametrize("header", ["@@ -1,6 +1,6 @@", "@@ -1,99 +7,2 @@", "@@ -40,1 +41,1 @@ def f():"])
def test_wrong_counts_and_places_of_a_hunk_do_not_matter(header: str) -> None:
    assert apply_hunks(BEFORE, f"{header}\n" + HUNKS.partition("\n")[2]) == (AFTER.encode(), "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\r\n", "a\r\nc\r\n"),
        ("a", "a\n"),
        ("a\n", "a"),
        ("x \n\t\n", "x\n\t\n"),
        (None, "new\n"),
        (None, "no end"),
    ],
)
def test_bytes_are_what_the_diff_says(before: str | None, after: str) -> None:
    assert apply_hunks(before, unified_hunks(before or "", after)) == (after.encode(), "")


def test_what_does_not_apply_is_said_as_git_says_it() -> None:
    assert apply_hunks("other\n", HUNKS) == (None, "patch failed: file:1")
    assert apply_hunks(BEFORE, "@@ nonsense\n") == (None, 'No valid patches in input (allow with "--allow-empty")')
    assert apply_hunks(BEFORE, "")[0] is None


def test_a_file_is_named_as_in_its_repository(tmp_path: Path) -> None:
    (tmp_path / "one/deep").mkdir(parents=True)
    assert name_in_repository(tmp_path / "one/deep/a.py") == "a.py"
    subprocess.run(["git", "init", "-q", tmp_path / "one"], check=True, env=git_environment())
    assert name_in_repository(tmp_path / "one/deep/a.py") == "deep/a.py"
    assert read_before(tmp_path / "one/deep/a.py") is None
    with pytest.raises(ConfigError, match="is no folder"):
        read_before(tmp_path / "two/a.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


def answer(monkeypatch: pytest.MonkeyPatch, completion: str) -> list[str]:
    """Let the model write `completion`; returns the prompts that it gets."""
    prompts: list[str] = []

    def generate(self: Generator, texts: list[str], *rest: object, whole: bool) -> list[str]:
        assert whole  # after eos, as documents are in training
        prompts.extend(texts)
        return [completion]

    monkeypatch.setattr(Generator, "generate", generate)
    return prompts


def test_the_diff_is_printed_and_applied_on_request(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x y.py"
    file.write_text("a\n")
    os.chmod(file, 0o755)
    words = [f"run={run}", f"diff={file}", "message=B: [1", "max_new_tokens=4"]
    prompts = answer(monkeypatch, " @@ -3,7 +1 @@\n-a\n+b\n")
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == "--- a/x y.py\n+++ b/x y.py\n@@ -3,7 +1 @@\n-a\n+b\n" and shown.err == ""
    assert prompts == [diff_prompt("x y.py", "a\n", "B: [1")] and file.read_text() == "a\n"
    assert main([*words, "apply=true"]) == 0
    assert file.read_text() == "b\n" and file.stat().st_mode & 0o777 == 0o755
    assert capsys.readouterr().err == f"applied to {file}\n"
    assert main([*words, "apply=true"]) == NOT_APPLIED
    assert capsys.readouterr().err == f"not applied to {file}: patch failed: file:3\n" and file.read_text() == "b\n"


def test_a_new_file_is_made(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = answer(monkeypatch, " @@ -0,0 +1 @@\n+new\n+cut")
    assert main([f"run={run}", f"diff={tmp_path / 'new.py'}", "message=m", "apply=true", "max_new_tokens=4"]) == 0
    assert (tmp_path / "new.py").read_text() == "new\n"
    assert prompts == ["<NME> new.py\n<BEF> ADDFILE\n<MSG> m\n<DFF>"]


@pytest.mark.parametrize("apply", ["apply=false", "apply=true"])
def test_a_real_model_is_asked_and_has_no_diff(
    apply: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_text("a\n")
    assert main([f"run={run}", f"diff={tmp_path / 'a'}", "message=m", apply, "max_new_tokens=4"]) == NOT_APPLIED
    assert "the model wrote no diff" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff={}/a.py"], "diff= needs a message: what to change, as a commit would say it"),
        (["prompt=x", "message=m"], "message= belongs to diff="),
        (["prompt=x", "apply=true"], "apply= belongs to diff="),
        (["diff={}/long.py", "message=m"], "more than the context of 64; take a smaller file"),
        (["diff={}/binary.py", "message=m"], "binary.py cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long.py").write_text("line\n" * 100)
    (tmp_path / "binary.py").write_bytes(b"\xff\0")
    assert main([f"run={run}", "max_new_tokens=12", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
