"""`data=files`: the user's own texts, as JSONL, Parquet, text files, folders of these, or globs.

JSONL is read line by line here rather than by `datasets`, whose errors name neither the file nor the line.
"""

import glob
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from conf.choices import OnError
from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.documents import EXTENSIONS, Document, language_of

TABLES = (".jsonl", ".jsonl.gz", ".parquet")
PROSE = (".txt", ".md", ".rst")


@dataclass
class Broken:
    """What becomes of a document that cannot be read: an error under `fail`, a count under `skip`."""

    on_error: OnError
    count: Counter[str] = field(default_factory=Counter)

    def __call__(self, problem: str) -> None:
        """Report one `problem`, a sentence that names the place."""
        if self.on_error is OnError.fail:
            raise DataError(f"{problem}; mend it, or leave such documents out with data.on_error=skip")
        self.count["unreadable"] += 1


def list_files(key: str, corpus: CorpusConfig) -> list[Path]:
    """The files that corpus `key` consists of, sorted within each of its paths.

    A folder stands for its files, at any depth, with a known extension: for a code corpus those of the six languages,
    for others texts; tables for both. Errors: `DataError` for a path or glob that leads to nothing.
    """
    setting = f"data.corpora.{key}.paths"
    files: list[Path] = []
    for name in corpus.paths:
        path = Path(name).expanduser()
        if path.is_dir():
            known = (*TABLES, *(EXTENSIONS if corpus.code else PROSE))
            found = sorted(file for file in path.rglob("*") if file.name.lower().endswith(known) and file.is_file())
            if not found:
                raise DataError(f"{setting}: the folder {name} holds no file ending in {', '.join(known)}")
        elif path.exists():
            found = [path]
        elif glob.has_magic(name):
            found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
            if not found:
                raise DataError(f"{setting}: {name} matches no file")
        else:
            raise DataError(f"{setting}: {name} does not exist")
        files += found
    return list(dict.fromkeys(files))


def read_files(key: str, corpus: CorpusConfig, broken: Broken) -> Iterator[Document]:
    """The documents of corpus `key`, file by file.

    Errors: `DataError` that names the file, and the line or row, for what cannot be read.
    """
    for path in list_files(key, corpus):
        name = path.name.lower()
        try:
            if name.endswith((".jsonl", ".jsonl.gz")):
                yield from _jsonl(path, key, corpus, broken)
            elif name.endswith(".parquet"):
                yield from _parquet(path, key, corpus, broken)
            else:
                yield from _text(path, broken)
        except (OSError, EOFError, pyarrow.ArrowException) as error:
            broken(f"{path} cannot be read: {_first_line(error)}")


def row_document(row: dict[str, Any], place: str, key: str, corpus: CorpusConfig, broken: Broken) -> Document | None:
    """The document in one row of a table, None where the row is broken and skipped."""
    if corpus.text_column not in row:
        broken(
            f"{place} has no column '{corpus.text_column}' (it has {', '.join(map(str, row)) or 'none'}); "
            f"name the column of the text with data.corpora.{key}.text_column=..."
        )
        return None
    text = row[corpus.text_column]
    if not isinstance(text, str):
        broken(f"{place}: column '{corpus.text_column}' holds {type(text).__name__}, not text")
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        broken(f"{place}: the text holds a lone surrogate, which no UTF-8 can express")
        return None
    language = row.get(corpus.language_column) if corpus.language_column else None
    return Document(text, place, str(language) if language else None, _licence(row))


def _licence(row: dict[str, Any]) -> str | None:
    """What a data set says of a document's licence, under the names such columns have."""
    for column in ("license", "licence", "licenses", "max_stars_repo_licenses"):
        value = row.get(column)
        if value:
            return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return None


def _jsonl(path: Path, key: str, corpus: CorpusConfig, broken: Broken) -> Iterator[Document]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                broken(f"{place} is not UTF-8 (byte {error.start + 1} of the line)")
                continue
            except (ValueError, RecursionError) as error:
                broken(f"{place} is not JSON: {_first_line(error)}")
                continue
            if not isinstance(row, dict):
                broken(f"{place} is a JSON {type(row).__name__}, not an object with a column '{corpus.text_column}'")
                continue
            document = row_document(row, place, key, corpus, broken)
            if document is not None:
                yield document


def _parquet(path: Path, key: str, corpus: CorpusConfig, broken: Broken) -> Iterator[Document]:
    with pyarrow.parquet.ParquetFile(path) as table:
        if corpus.text_column not in table.schema_arrow.names:
            row_document(dict.fromkeys(table.schema_arrow.names), str(path), key, corpus, broken)
            return
        number = 0
        for batch in table.iter_batches(batch_size=256):  # rows; the texts of a batch are in memory together
            for row in batch.to_pylist():
                number += 1
                document = row_document(row, f"{path}:{number}", key, corpus, broken)
                if document is not None:
                    yield document


def _text(path: Path, broken: Broken) -> Iterator[Document]:
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        broken(f"{path} is not UTF-8 (byte {error.start + 1})")
        return
    yield Document(text, str(path), language_of(path.suffix, text))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
