"""Problems are read from files of three forms; their identity is their content."""

import gzip
import json
from pathlib import Path

import pytest

from conf.errors import ConfigError
from train.evaluate.problems import problems_digest, read_problems, sample_seed

ROWS = [{"id": 1, "text": "a\u2028b"}, {"id": 2, "text": "c"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
def test_every_form_holds_the_same_problems(tmp_path: Path, suffix: str) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
    text = json.dumps(ROWS) if suffix == ".json" else lines
    path = tmp_path / f"problems{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    problems = read_problems(str(path), ["id", "text"])
    assert problems == ROWS
    assert problems_digest(problems) == problems_digest(ROWS) != problems_digest(ROWS[:1])


def test_a_name_that_is_neither_file_nor_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a file, and names on the hub are written owner/name"):
        read_problems("none.jsonl", ["id"])


def test_a_data_set_is_read_from_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of files is what the hub's name stands for: `datasets` reads both in the same way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.evaluate.problems.is_hub_name", lambda name: True)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, row in zip(("train", "test"), ROWS, strict=True):
        path = tmp_path / "owner" / "name" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    assert sorted(read_problems("owner/name", ["id", "text"]), key=lambda row: row["id"]) == ROWS


def test_seeds_differ_by_sample_and_never_change() -> None:
    assert sample_seed(1234, 0.2, "HumanEval/0", 0) == 614787760
    assert len({sample_seed(1234, 0.2, "HumanEval/0", index) for index in range(100)}) == 100
