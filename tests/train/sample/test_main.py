"""`python -m train.sample` as its user meets it, on a finished run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conf.checksums import seal
from tests.train.checkpoint.test_load import flip
from tests.train.sample.cases import finished_run
from train.evaluate.__main__ import main as evaluate
from train.sample.__main__ import main

ROOT = Path(__file__).parents[3]
SHORT = ["max_new_tokens=12", "temperature=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder whose one stage has left weights and a tokenizer."""
    return finished_run(tmp_path_factory.mktemp("run"))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_are_shown_and_written(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "samples.jsonl"
    words = [f"run={run}", "prompt=def f(x):", "samples=3", "temperature=0.9", "max_new_tokens=12", "seed=7"]
    assert main([*words, f"output={output}", "batch_size=2"]) == 0
    shown, written = capsys.readouterr().out, lines(output)
    assert [(line["sample"], line["seed"]) for line in written] == [(0, 7), (1, 8), (2, 9)]
    assert len({str(line["completion"]) for line in written}) == 3
    assert all(f"seed {line['seed']}" in shown for line in written)
    assert list(tmp_path.iterdir()) == [output]
    assert main([*words, f"output={output}", "batch_size=16"]) == 0
    assert lines(output) == written


def test_damaged_weights_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path)
    weights = run / "stages/nl/weights"
    seal(weights)
    words = [f"run={run}", "prompt=x", *SHORT]
    assert main(words) == 0
    flip(weights / "layer_003.safetensors")
    capsys.readouterr()
    for command in (main, lambda argv: evaluate([argv[0], "task=perplexity"])):
        assert command(words) == 2
        said = capsys.readouterr()
        assert f"error: {weights} is damaged: layer_003.safetensors does not match its checksum; " in said.err
        assert (said.out, said.err.count("\n")) == ("", 1)


def test_prompts_from_files(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    (tmp_path / "one.py").write_text("a = 1\nb =")
    (tmp_path / "two.jsonl").write_text('"a = 1\\nb ="\n\n{"sample": 0, "prompt": "[bold]x", "completion": ""}\n')
    found = []
    for name in ("one.py", "two.jsonl"):
        assert main([f"run={run}", f"prompt=@{tmp_path / name}", f"output={output}", *SHORT]) == 0
        found.append(lines(output))
    assert [line["prompt"] for line in found[1]] == ["a = 1\nb =", "[bold]x"]
    assert found[0][0] == found[1][0]


def test_stops_and_truncation(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"

    def completion(*words: str) -> str:
        assert main([f"run={run}", "prompt=", f"output={output}", *SHORT, *words]) == 0
        return str(lines(output)[0]["completion"])

    whole = completion()
    middle = whole[len(whole) // 2]
    assert completion(f"stop=[{json.dumps(middle)}]") == whole.split(middle)[0]
    from train.evaluate.truncation import truncate

    assert completion("truncate=true") == truncate(whole)


def test_special_tokens_in_a_prompt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def completion(*words: str) -> str:
        assert main([f"run={run}", f"output={tmp_path / 'samples.jsonl'}", *SHORT, *words]) == 0
        return str(lines(tmp_path / "samples.jsonl")[0]["completion"])

    alone = completion("prompt=")  # begins with the end-of-text token, as an empty prompt does
    assert (
        completion("prompt=</s>", "allowed_special=[</s>]")
        == completion("prompt=</s>", "allowed_special=[all]")
        == alone
    )
    assert completion("prompt=</s>") != alone
    assert main([f"run={run}", "prompt=x", "allowed_special=[<eom>]", *SHORT]) == 2
    assert "allowed_special=<eom> is no special token of this tokenizer; there is </s>" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=nowhere/at/all"], "nowhere/at/all"),
        (["temperature=-1"], "temperature=-1.0 must be at least 0"),
        (["temperature=.nan"], "temperature=nan must be at least 0"),
        (["temperature=warm"], "temperature: "),
        (["top_p=0"], "top_p=0.0 must be above 0"),
        (["top_p=1.1"], "top_p=1.1 must be above 0"),
        (["top_k=-1"], "top_k=-1 must be at least 0"),
        (["max_new_tokens=0"], "max_new_tokens=0 must be more than 0"),
        (["max_new_tokens=64"], "max_new_tokens=64 leaves no room"),
        (["samples=0"], "samples=0 must be more than 0"),
        (["seed=-1"], "seed=-1 must be at least 0"),
        (["stop=abc"], "stop=abc is no list"),
        (["precision=fp16"], "precision=fp16 does not work on a CPU"),
        (["prompt=a\udcffb"], "prompt is no text at character 2"),
        (["prompt=@nowhere.txt"], "prompt=@nowhere.txt cannot be read (No such file or directory); name"),
        (["infill=a"], "say what to sample by one of prompt=, infill=, chat=, diff=; there is prompt= and infill="),
        (["output=nowhere/at/all.jsonl"], "output=nowhere/at/all.jsonl cannot be written"),
        (["sampels=3"], "did you mean 'samples'?"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run={run}", "prompt=x", "max_new_tokens=12", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("words", [["chat=x", "stop=[a]"], ["diff=x", "message=y", "output=a.jsonl"]])
def test_a_setting_that_would_do_nothing_is_refused(
    words: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"run={run}", *words]) == 2
    name = words[-1].partition("=")[0]
    assert f"{name}= does nothing beside {words[0].partition('=')[0]}=; leave it out" in capsys.readouterr().err


def test_half_a_character_in_a_conversation_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "asked.jsonl").write_text('{"messages": [{"role": "user", "content": "a\\ud83d"}]}\n')
    assert main([f"run={run}", f"chat=@{tmp_path}/asked.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "asked.jsonl:1 is no conversation: 'utf-8' codec can't encode" in error and error.count("\n") == 1


def test_a_change_is_not_made_without_git(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main([f"run={run}", "diff=x", "message=y", "apply=true"]) == 2
    assert "apply=true needs git" in capsys.readouterr().err


def test_one_thing_is_sampled(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (([], "there is none"), (["prompt=x", "diff=y"], "there is prompt= and diff=")):
        assert main([f"run={run}", *words]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["infill=@nowhere.txt"], "infill=@nowhere.txt cannot be read"),
        (["infill=no place"], "infill= holds <mask_1> 0 times; write it once, where text is to be filled in"),
        (["infill=<mask_1><mask_1>"], "infill= holds <mask_1> 2 times"),
        (["infill=a<mask_1>b"], "cannot infill: its tokenizer has no <mask_1>, <sep>, <eom>; use a CodeGen2 model"),
    ],
)
def test_what_cannot_be_filled_in_is_one_line(
    words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"run={run}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_prompt_file_with_a_wrong_line_names_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    for text, said in (
        ('"a"\n{"b": 1}\n', ":2 is no JSON string"),
        ('"a"\nb\n', ":2 is no"),
        ("\n", "holds no prompt"),
    ):
        prompts.write_text(text)
        assert main([f"run={run}", f"prompt=@{prompts}"]) == 2
        assert said in capsys.readouterr().err


def test_a_run_without_a_finished_stage_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert main([f"run={tmp_path}", "prompt=x"]) == 2
    assert "has not finished any of its stages" in capsys.readouterr().err


def test_the_command_prints_samples_and_nothing_else(run: Path) -> None:
    command = [sys.executable, "-m", "train.sample", f"run={run}", "prompt=import", *SHORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, text = done.stdout.split("\n", 1)
    assert first.startswith("sample 1 of 1, seed 1234") and text.startswith("import")
    assert done.stderr == ""
