"""The files of a corpus and their shards: nothing is left out without a word, and each byte is in one shard."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from conf.choices import OnError
from conf.errors import DataError
from tests.train.data.test_formats import corpus, jsonl, read
from train.data.dropped import Dropped
from train.data.files import file_shards, list_files
from train.data.formats import read_part


def test_text_files_folders_and_globs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.md", "c.py", "image.png"):
        (tmp_path / name).write_text(f"{name}\n")
    jsonl(tmp_path / "d.jsonl", {"text": "row"})
    dropped = Dropped(OnError.fail)
    assert [document.text for document in read(tmp_path, dropped=dropped)] == ["b.txt\n", "row", "sub/a.md\n"]
    assert dropped.examples == {"unknown file type": [f"{tmp_path}/c.py", f"{tmp_path}/image.png"]}
    assert [document.text for document in read(tmp_path / "**" / "*.md")] == ["sub/a.md\n"]
    code = read(tmp_path, code=True)
    assert [(document.source, document.language) for document in code] == [
        (str(tmp_path / "c.py"), "Python"),
        (f"{tmp_path}/d.jsonl:1", None),
    ]
    assert len(list_files("nl", corpus(tmp_path, tmp_path / "b.txt"))) == 3, "a file named twice is read once"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.jsonl", "gone.jsonl does not exist"),
        ("*.jsonl", "matches no file"),
        ("", "holds no file ending in .jsonl"),
        ("memory://gone/a.jsonl", "does not exist"),
        ("nothing://a/b.jsonl", "cannot be reached: Protocol not known: nothing"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_clear_line(tmp_path, name, words):
    with pytest.raises(DataError, match=f"data.corpora.nl.paths: .*{words}"):
        read(name if "://" in name else tmp_path / name)


def test_a_named_file_of_an_unknown_kind_is_refused_by_name(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "b.rs").write_text("fn main() {}\n")
    for name in ("a.pdf", "*.pdf"):
        with pytest.raises(DataError, match=r"a\.pdf is of a kind that is not read; known are \.jsonl, .*extensions"):
            read(tmp_path / name)
    assert [document.text for document in read(tmp_path, extensions=[".rs"])] == ["fn main() {}\n"]


def texts_of(shards, config):
    return [
        document.text
        for shard in shards
        for part in shard.parts
        for document in read_part(part, "nl", config, Dropped(OnError.fail))
    ]


def test_large_files_are_divided_and_small_ones_gathered(tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 1000)
    jsonl(tmp_path / "big.jsonl", *[{"text": f"line {number}"} for number in range(200)])
    table = pyarrow.table({"text": [f"row {number} {number**9}" for number in range(200)]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=20, compression="none")
    for number in range(100):
        (tmp_path / f"small{number:03}.txt").write_text(f"small {number} " + "x" * 40)
    config = corpus(tmp_path)
    shards = list(file_shards("nl", config))
    assert len(shards) > 12 and max(shard.bytes for shard in shards) < 3000
    texts = texts_of(shards, config)
    assert len(texts) == len(set(texts)) == 500
    assert [shard.parts[0].start for shard in shards if "parquet" in shard.parts[0].name] != [0]
    before = {shard.parts for shard in shards}
    (tmp_path / "small050b.txt").write_text("one more")
    assert len({shard.parts for shard in file_shards("nl", config)} - before) <= 2, "the other shards are as they were"


def test_urls_are_read_as_files_are(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    rows = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(3))
    for name in ("/corpus/a.jsonl", "/corpus/sub/b.jsonl"):
        memory.pipe(name, rows.encode())
    memory.pipe("/corpus/c.bin", b"x")
    try:
        dropped = Dropped(OnError.fail)
        for path, count in (("memory://corpus", 6), ("memory://corpus/a.jsonl", 3), ("memory://corpus/**/*.jsonl", 6)):
            assert len(read(path, dropped=dropped)) == count
        assert dropped.examples == {"unknown file type": ["memory:///corpus/c.bin"]}
        first = [shard.states for shard in file_shards("nl", corpus("memory://corpus"))]
        memory.pipe("/corpus/a.jsonl", rows.encode())
        assert [shard.states for shard in file_shards("nl", corpus("memory://corpus"))] != first, "it was written anew"
    finally:
        memory.rm("/corpus", recursive=True)
