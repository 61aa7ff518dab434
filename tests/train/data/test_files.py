import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from conf.choices import OnError, Source
from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.files import UnreadableDocuments, list_files, read_files


def corpus(*paths, **settings):
    return CorpusConfig(source=Source.files, name="mine", paths=[str(path) for path in paths], **settings)


def read(*paths, on_error=OnError.fail, **settings):
    return list(read_files("nl", corpus(*paths, **settings), UnreadableDocuments(on_error)))


def jsonl(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return path


def test_jsonl_names_file_and_line(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "one\r\n"}, b"\n", {"text": "two", "license": "MIT", "lang": "Go"})
    first, second = read(path, language_column="lang")
    assert (first.text, first.source, first.language) == ("one\r\n", f"{path}:1", None)
    assert (second.text, second.source, second.language, second.licence) == ("two", f"{path}:3", "Go", "MIT")


def test_compressed_jsonl(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert [document.text for document in read(path)] == ["one", "two"]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        read(path)


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
    unreadable = UnreadableDocuments(OnError.skip)
    assert [document.text for document in read_files("nl", corpus(path), unreadable)] == ["one", "two"]
    assert unreadable.counts == {"unreadable": 1}


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
    path.write_bytes(b"PAR1 not a table")
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        read(path, **settings)


def test_text_files_folders_and_globs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.md", "c.py", "image.png"):
        (tmp_path / name).write_text(f"{name}\n")
    jsonl(tmp_path / "d.jsonl", {"text": "row"})
    assert [document.text for document in read(tmp_path)] == ["b.txt\n", "row", "sub/a.md\n"]
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
    ],
)
def test_a_path_that_leads_nowhere_is_one_clear_line(tmp_path, name, words):
    with pytest.raises(DataError, match=f"data.corpora.nl.paths: .*{words}"):
        read(tmp_path / name)


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=f"{path} is not UTF-8 \\(byte 4\\)"):
        read(path)
    assert read(path, on_error=OnError.skip) == []
