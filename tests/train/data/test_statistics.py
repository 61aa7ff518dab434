"""What `stats` and `inspect` show of prepared data is what is in it."""

import json

from tests.train.data.conftest import text, write_jsonl
from train.data.prepare import prepare
from train.data.statistics import inspection, statistics


def test_counts_languages_and_what_was_left_out(settings, tmp_path):
    write_jsonl(tmp_path / "code.jsonl", [text(seed) for seed in range(200)] + [" "])
    data = prepare(settings, lambda line: None)
    lines = list(statistics(data))
    files = data.corpora["code"]
    assert f"code train: {files.train_documents:,} documents, {files.train_bytes:,} bytes, " in "\n".join(lines)
    assert f"code languages, in tokens to train on: Python {files.train_tokens - 1:,} (100.0%)" in lines
    assert f"code left out, empty: 1, for example {tmp_path}/code.jsonl:201" in lines


def test_documents_are_shown_as_the_model_reads_them(settings, tmp_path):
    data = prepare(settings, lambda line: None)
    shown = list(inspection(data))
    first = json.loads((data.directory / "code/manifest.jsonl").read_text().splitlines()[0])
    assert len(shown) == 2 * 2 * 3
    head, body = next(one for one in shown if one.startswith("--- code")).split("\n", 1)
    assert head == f"--- code: {first['path']}, Python, {first['bytes']} bytes"
    number = int(first["path"].rpartition(":")[2])
    assert body == "Python\n" + text(199 + number)
