import subprocess
import sys

from tests.train.data.conftest import text, write_jsonl
from train.data.__main__ import main


def overrides(folder, path):
    return [
        "data=files",
        "stage=nl",
        f"data.corpora.nl.paths=[{path}]",
        f"data.cache={folder / 'cache'}",
        "model.vocab_size=400",
        "stages.nl.global_batch_size=4",
    ]


def test_data_is_prepared_and_reused(tmp_path, capsys):
    words = overrides(tmp_path, write_jsonl(tmp_path / "nl.jsonl", [text(seed) for seed in range(400)]))
    assert main(["prepare", *words]) == 0
    assert "data: nl: " in capsys.readouterr().out
    assert main(["prepare", *words]) == 0
    assert capsys.readouterr().out.startswith("data: reusing ")
    for word, begin in (("stats", "nl train: "), ("inspect", "--- nl: ")):
        assert main([word, *words]) == 0
        assert capsys.readouterr().out.startswith(begin)
    assert main(["stats", *words, "model.vocab_size=401"]) == 2
    assert capsys.readouterr().err == "error: the data is not prepared; say prepare with the same settings first\n"


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "one"}\n{"text": \n')
    for words, said in (
        (overrides(tmp_path, bad), f"error: {bad}:2 is not JSON"),
        (overrides(tmp_path, tmp_path / "gone"), "gone does not exist"),
        (["data.cash=x"], "unknown setting 'data.cash'; did you mean 'data.cache'?"),
    ):
        done = subprocess.run([sys.executable, "-m", "train.data", "prepare", *words], capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""
