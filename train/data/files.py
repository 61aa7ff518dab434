"""`data=files`: documents from JSONL, Parquet and text files, folders of these, or globs.

JSONL is read line by line here rather than with `datasets`, whose errors give neither the file nor the line.
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

TABLE_EXTENSIONS = (".jsonl", ".jsonl.gz", ".parquet")
PROSE_EXTENSIONS = (".txt", ".md", ".rst")


@dataclass
class UnreadableDocuments:
    """Policy for documents that cannot be read: `fail` raises at the first, `skip` counts them."""

    on_error: OnError
    counts: Counter[str] = field(default_factory=Counter)

    def report(self, problem: str) -> None:
        """Handle one unreadable document. problem: the message, with file and line.

        Errors: `DataError` under `fail`.
        """
        if self.on_error is OnError.fail:
            raise DataError(f"{problem}; fix it, or skip such documents with data.on_error=skip")
        self.counts["unreadable"] += 1


def list_files(key: str, corpus: CorpusConfig) -> list[Path]:
    """The files of corpus `key`, sorted within each of its paths.

    A folder is searched recursively for JSONL and Parquet files and, in a code corpus, source files of the six
    languages, otherwise text files. Errors: `DataError` for a path that does not exist or a glob without a match.
    """
    setting = f"data.corpora.{key}.paths"
    files: list[Path] = []
    for name in corpus.paths:
        path = Path(name).expanduser()
        if path.is_dir():
            known = (*TABLE_EXTENSIONS, *(EXTENSIONS if corpus.code else PROSE_EXTENSIONS))
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


def read_files(key: str, corpus: CorpusConfig, unreadable: UnreadableDocuments) -> Iterator[Document]:
    """The documents of corpus `key`, file by file.

    Errors: `DataError` with the file and its line or row for what cannot be read, under on_error=fail.
    """
    for path in list_files(key, corpus):
        name = path.name.lower()
        try:
            if name.endswith((".jsonl", ".jsonl.gz")):
                yield from _jsonl(path, key, corpus, unreadable)
            elif name.endswith(".parquet"):
                yield from _parquet(path, key, corpus, unreadable)
            else:
                yield from _text(path, unreadable)
        except (OSError, EOFError, pyarrow.ArrowException) as error:
            unreadable.report(f"{path} cannot be read: {_first_line(error)}")


def row_document(
    row: dict[str, Any], place: str, key: str, corpus: CorpusConfig, unreadable: UnreadableDocuments
) -> Document | None:
    """The document in one row of a table; None where the row is unreadable and skipped. place: for error messages."""
    if corpus.text_column not in row:
        unreadable.report(
            f"{place} has no column '{corpus.text_column}' (it has {', '.join(map(str, row)) or 'none'}); "
            f"name the column of the text with data.corpora.{key}.text_column=..."
        )
        return None
    text = row[corpus.text_column]
    if not isinstance(text, str):
        unreadable.report(f"{place}: column '{corpus.text_column}' holds {type(text).__name__}, not text")
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        unreadable.report(f"{place}: the text holds a lone surrogate, which UTF-8 cannot encode")
        return None
    language = row.get(corpus.language_column) if corpus.language_column else None
    return Document(text, place, str(language) if language else None, _licence(row))


def _licence(row: dict[str, Any]) -> str | None:
    """The document's licence, from the first of the usual column names that is filled."""
    for column in ("license", "licence", "licenses", "max_stars_repo_licenses"):
        value = row.get(column)
        if value:
            return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return None


def _jsonl(path: Path, key: str, corpus: CorpusConfig, unreadable: UnreadableDocuments) -> Iterator[Document]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                unreadable.report(f"{place} is not UTF-8 (byte {error.start + 1} of the line)")
                continue
            except (ValueError, RecursionError) as error:
                unreadable.report(f"{place} is not JSON: {_first_line(error)}")
                continue
            if not isinstance(row, dict):
                unreadable.report(
                    f"{place} is a JSON {type(row).__name__}, not an object with a column '{corpus.text_column}'"
                )
                continue
            document = row_document(row, place, key, corpus, unreadable)
            if document is not None:
                yield document


def _parquet(path: Path, key: str, corpus: CorpusConfig, unreadable: UnreadableDocuments) -> Iterator[Document]:
    with pyarrow.parquet.ParquetFile(path) as table:
        if corpus.text_column not in table.schema_arrow.names:
            row_document(dict.fromkeys(table.schema_arrow.names), str(path), key, corpus, unreadable)
            return
        number = 0
        for batch in table.iter_batches(batch_size=256):  # rows; the texts of a batch are in memory together
            for row in batch.to_pylist():
                number += 1
                document = row_document(row, f"{path}:{number}", key, corpus, unreadable)
                if document is not None:
                    yield document


def _text(path: Path, unreadable: UnreadableDocuments) -> Iterator[Document]:
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        unreadable.report(f"{path} is not UTF-8 (byte {error.start + 1})")
        return
    yield Document(text, str(path), language_of(path.suffix, text))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
