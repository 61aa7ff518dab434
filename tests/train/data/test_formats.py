"""Documents out of files of every kind, plain and compressed, with the place of whatever cannot be read."""

import bz2
import gzip
import itertools
import json
import lzma
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from conf.choices import OnError, Source
from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.dropped import Dropped
from train.data.files import list_files
from train.data.formats import Part, kind_of, read_part


def corpus(*paths, **settings):
    return CorpusConfig(source=Source.files, name="mine", paths=[str(path) for path in paths], **settings)


def read(*paths, on_error=OnError.fail, dropped=None, **settings):
    config, dropped = corpus(*paths, **settings), dropped or Dropped(on_error)
    return [
        document
        for name in list_files("nl", config, dropped)
        for document in read_part(Part(name), "nl", config, dropped)
    ]


def jsonl(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return path


def test_jsonl_names_file_and_line(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "one\r\n"}, b"\n", {"text": "two", "license": "MIT", "lang": "Go"})
    first, second = read(path, language_column="lang")
    assert (first.text, first.source, first.language) == ("one\r\n", f"{path}:1", None)
    assert (second.text, second.source, second.language, second.licence) == ("two", f"{path}:3", "Go", "MIT")


def zst(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


COMPRESSED = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zst}


@pytest.mark.parametrize("ending", COMPRESSED)
def test_every_compression(tmp_path, ending):
    path = tmp_path / f"a.jsonl{ending}"
    lines = b"".join(json.dumps({"text": f"{number} é" * 50}).encode() + b"\n" for number in range(5000))
    compress = COMPRESSED[ending]
    path.write_bytes(compress(lines[:100_000]) + compress(lines[100_000:]))  # as tools that work in parallel write them
    assert [document.text for document in read(path)] == [f"{number} é" * 50 for number in range(5000)]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        read(path)


def test_parts_of_a_file_hold_each_line_once(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *[{"text": "x" * (number % 7)} for number in range(40)], b"\n", {"text": "end"})
    size = path.stat().st_size
    whole = [document.text for document in read(path)]
    for step in (1, 13, 14, 100, size):
        borders = [*range(0, size, step), size]
        parts = [Part(str(path), start, stop) for start, stop in itertools.pairwise(borders)]
        found = [document for part in parts for document in read_part(part, "nl", corpus(path), Dropped(OnError.fail))]
        assert [document.text for document in found] == whole
    assert found[-1].source == f"{path}:42"
    last = read_part(Part(str(path), size - 5), "nl", corpus(path), Dropped(OnError.fail))
    assert list(last) == []


def test_json_csv_and_tsv(tmp_path):
    rows = [{"text": "one\n,", "license": "MIT"}, {"text": "twö", "license": ""}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "one.json").write_text(json.dumps(rows[0]))
    (tmp_path / "a.csv").write_text('\ufefftext,license\n"one\n,",MIT\ntwö,\n')
    (tmp_path / "a.tsv").write_text('text\tlicense\n"one\n,"\tMIT\ntwö\t\n')
    for name in ("list.json", "lines.json", "a.csv", "a.tsv"):
        first, second = read(tmp_path / name)
        assert (first.text, first.licence, second.text, second.licence) == ("one\n,", "MIT", "twö", None)
    assert [document.text for document in read(tmp_path / "one.json")] == ["one\n,"]
    (tmp_path / "list.json").write_text("[{")
    with pytest.raises(DataError, match=r"list\.json is not JSON: "):
        read(tmp_path / "list.json")
    (tmp_path / "a.csv").write_text("content,license\nx,y\n")
    with pytest.raises(DataError, match=r"a\.csv:2 has no column 'text' \(it has content, license\)"):
        read(tmp_path / "a.csv")


def test_a_folder_that_datasets_wrote(tmp_path):
    import datasets

    rows = [{"text": f"row {number}", "repo_name": "a/b"} for number in range(600)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    dropped = Dropped(OnError.fail)
    documents = read(tmp_path / "saved", dropped=dropped)
    assert [document.text for document in documents] == [row["text"] for row in rows]
    assert documents[-1].source.endswith(".arrow:600") and documents[0].repository == "a/b"
    assert not dropped.counts, "its own descriptions are no documents that were left out"
    table = pyarrow.table({"text": ["one", "two"]})
    with pyarrow.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert [document.text for document in read(tmp_path / "b.arrow")] == ["one", "two"]


def test_an_archive_of_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.py").write_text("print()\n")
    (tmp_path / "in/b.jsonl").write_text('{"text": "row"}\n')
    (tmp_path / "in/c.txt.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "in/d.png").write_bytes(b"\x89")
    for name in ("a.tar", "a.tar.gz", "a.tgz"):
        with tarfile.open(tmp_path / name, "w:gz" if "gz" in name else "w") as archive:
            archive.add(tmp_path / "in", arcname="in")
        dropped = Dropped(OnError.fail)
        documents = {document.source: document for document in read(tmp_path / name, dropped=dropped)}
        assert {source: document.text for source, document in documents.items()} == {
            f"{tmp_path}/{name}/in/a.py": "print()\n",
            f"{tmp_path}/{name}/in/b.jsonl:1": "row",
            f"{tmp_path}/{name}/in/c.txt.gz": "text",
        }
        assert documents[f"{tmp_path}/{name}/in/a.py"].language == "Python"
        assert dropped.examples == {"unknown file type": [f"{tmp_path}/{name}/in/d.png"]}


def test_what_is_broken_in_an_archive_or_a_csv_spoils_nothing_else(tmp_path):
    (tmp_path / "in").mkdir()
    for name, content in (("a.py", b"a = 1\n"), ("b.py.gz", gzip.compress(b"b = 1\n" * 99)[:20]), ("c.py", b"c = 1\n")):
        (tmp_path / "in" / name).write_bytes(content)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.py", "b.py.gz", "c.py"):
            archive.add(tmp_path / "in" / name, arcname=name)
    dropped = Dropped(OnError.skip)
    assert [one.text for one in read(tmp_path / "a.tar", dropped=dropped)] == ["a = 1\n", "c = 1\n"]
    assert dropped.counts == {"unreadable": 1} and "a.tar/b.py.gz cannot be read" in dropped.examples["unreadable"][0]
    (tmp_path / "a.csv").write_bytes(b"text,license\none,\nt\xffwo,\nthree,\n")
    dropped = Dropped(OnError.skip)
    assert [one.text for one in read(tmp_path / "a.csv", dropped=dropped)] == ["one", "three"]
    assert dropped.counts == {"unreadable": 1} and "a.csv:3" in dropped.examples["unreadable"][0]


def test_what_is_not_known_has_no_kind():
    assert kind_of("a.PDF", corpus()) is None and kind_of("a", corpus()) is None and kind_of("a.gz", corpus()) is None
    assert kind_of("s3://b/A.JSONL.zst", corpus()) == ".jsonl" and kind_of("a.rs", corpus(extensions=[".rs"])) == "text"


BROKEN = [
    (b'{"text": "cut\n', "is not JSON: "),
    (b'{"text": "\xff"}\n', r"is not UTF-8 \(byte 11 of the line\)"),
    (b'["text"]\n', "is a JSON list, not an object with a column 'text'"),
    (b'{"content": "x"}\n', r"has no column 'text' \(it has content\).*data.corpora.nl.text_column="),
    (b'{"text": null}\n', "column 'text' holds NoneType, not text"),
    (b'{"text": "\\ud800"}\n', "the text holds a lone surrogate"),
]


@pytest.mark.parametrize(("line", "words"), BROKEN)
def test_a_broken_line_is_named_under_fail(tmp_path, line, words):
    path = jsonl(tmp_path / "a.jsonl", {"text": "one"}, line, {"text": "two"})
    with pytest.raises(DataError, match=f"{path}:2:? {words}.*data.on_error=skip") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("line", "words"), BROKEN)
def test_a_broken_line_is_left_out_and_counted_under_skip(tmp_path, line, words):
    path = jsonl(tmp_path / "a.jsonl", {"text": "one"}, line, {"text": "two"})
    dropped = Dropped(OnError.skip)
    assert [document.text for document in read(path, dropped=dropped)] == ["one", "two"]
    assert dropped.counts == {"unreadable": 1} and dropped.examples["unreadable"][0].startswith(f"{path}:2")


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    table = {"content": ["one", None, "two"], "lang": ["C", "C", None], "licenses": [["MIT", "BSD"], None, []]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    settings = {"text_column": "content", "language_column": "lang"}
    first, second = read(path, on_error=OnError.skip, **settings)
    assert (first.text, first.source, first.language, first.licence) == ("one", f"{path}:1", "C", "MIT, BSD")
    assert (second.text, second.source, second.language) == ("two", f"{path}:3", None)
    with pytest.raises(DataError, match=f"{path}:2: column 'content' holds NoneType"):
        read(path, **settings)
    with pytest.raises(DataError, match=r"has no column 'text' \(it has content, lang, licenses\)"):
        read(path)
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [str(n) for n in range(10)], "x": [0] * 10}), path, row_group_size=3
    )
    parts = [Part(str(path), group, group + 1) for group in range(4)]
    rows = [document for part in parts for document in read_part(part, "nl", corpus(path), Dropped(OnError.fail))]
    assert [(one.text, one.source) for one in rows] == [(str(n), f"{path}:{n + 1}") for n in range(10)]
    path.write_bytes(b"PAR1 not a table")
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        read(path, **settings)


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=f"{path} is not UTF-8 \\(byte 4\\)"):
        read(path)
    assert read(path, on_error=OnError.skip) == []


def test_a_document_too_large_for_memory_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.formats.MOST_BYTES", 1000)
    large, small = "x" * 2500, "small"
    (tmp_path / "a.txt").write_text(large)
    jsonl(tmp_path / "a.jsonl", {"text": large}, {"text": small})
    rows = pyarrow.table({"text": [large, small]})
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", rows.schema) as file:
        file.write(rows)
    (tmp_path / "a.json").write_text(json.dumps([{"text": large[:1500]}, {"text": small}]))
    for name in ("a.txt", "a.jsonl", "a.parquet", "a.arrow", "a.json"):
        with pytest.raises(DataError, match=rf"{name}.*: a document of more than \d+ MiB; divide it, or write"):
            read(tmp_path / name)
        dropped = Dropped(OnError.skip)
        part = Part(str(tmp_path / name))
        texts = [document.text for document in read_part(part, "nl", corpus(), dropped)]
        assert texts == ([] if name == "a.txt" else [small]) and dropped.counts["unreadable"] == 1
    (tmp_path / "a.csv").write_text(f'text\n"{large}')
    with pytest.raises(DataError, match=r"a\.csv cannot be read: field larger than field limit"):
        read(tmp_path / "a.csv")
