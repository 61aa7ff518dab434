"""Documents out of one file: JSONL, JSON, CSV, Parquet, Arrow, text and code, and tar archives of these.

Tables are read here rather than with `datasets`, whose errors give neither the file nor the line.
"""

import csv
import io
import itertools
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from conf.schema import CorpusConfig
from train.data.conversations import CHAT, META, TOOLS, conversation_of, without_nulls
from train.data.documents import EXTENSIONS, Document, language_of
from train.data.dropped import Dropped
from train.data.json_stream import json_values
from train.data.storage import decompressed, open_binary, without_compression

PROSE_EXTENSIONS = (".txt", ".md", ".rst")
BATCH_ROWS, BATCH_BYTES = 256, 32 << 20  # rows of a table that are in memory together, and what they come to on average
MOST_BYTES = 64 << 20  # of one document, which is in memory whole
LICENCE_COLUMNS = ("license", "licence", "licenses", "max_stars_repo_licenses")
REPOSITORY_COLUMNS = ("repository", "repo_name", "repo", "repository_name", "max_stars_repo_name")
READ_ERRORS = (
    OSError,
    EOFError,
    pyarrow.ArrowException,
    tarfile.TarError,
    csv.Error,
    UnicodeDecodeError,
    RecursionError,
)


@dataclass(frozen=True)
class Part:
    """A part of a file: bytes [start, stop) of JSONL, row groups [start, stop) of Parquet; stop None: to the end."""

    name: str
    start: int = 0
    stop: int | None = None


def kind_of(name: str, corpus: CorpusConfig) -> str | None:
    """How the file is read, a key of `READERS` or tar; None for an ending that is not known."""
    ending = PurePosixPath(without_compression(name)[0].lower()).suffix
    if ending == ".tar" or ending in READERS:
        return ending
    if ending in (*EXTENSIONS, *PROSE_EXTENSIONS, *(one.lower() for one in corpus.extensions)):
        return "text"
    return None


def read_part(part: Part, key: str, corpus: CorpusConfig, dropped: Dropped) -> Iterator[Document]:
    """The documents of one part of a file.

    Errors: `DataError` with the file and its line or row for what cannot be read, under on_error=fail.
    """
    kind = kind_of(part.name, corpus)
    try:
        with open_binary(part.name) as file:
            if kind == ".tar":
                yield from _tar(file, part.name, key, corpus, dropped)
            elif kind == "text":
                yield from _text(file, part.name, dropped)
            else:
                row = _Rows(key, corpus, dropped)
                yield from READERS[kind or ".jsonl"](file, part, row)
    except READ_ERRORS as error:
        dropped.unreadable(f"{part.name} cannot be read: {_first_line(error)}")


def row_document(row: dict[str, Any], place: str, key: str, corpus: CorpusConfig, dropped: Dropped) -> Document | None:
    """The document in one row of a table; None where the row is unreadable and skipped. place: for error messages."""
    conversation = None
    if corpus.conversations:
        try:
            conversation = conversation_of(row, corpus.text_column)
        except ValueError as error:
            dropped.unreadable(f"{place}: {error}")
            return None
    elif corpus.text_column not in row:
        dropped.unreadable(
            f"{place} has no column '{corpus.text_column}' (it has {', '.join(map(str, row)) or 'none'}); "
            f"name the column of the text with data.corpora.{key}.text_column=..."
        )
        return None
    text = row[corpus.text_column] if conversation is None else conversation.text()
    if not isinstance(text, str):
        dropped.unreadable(f"{place}: column '{corpus.text_column}' holds {type(text).__name__}, not text")
        return None
    if len(text) > MOST_BYTES:
        dropped.unreadable(f"{place}: {_too_large()}")
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        dropped.unreadable(f"{place}: the text holds a lone surrogate, which UTF-8 cannot encode")
        return None
    language = row.get(corpus.language_column) if corpus.language_column else None
    licence, repository = _first_filled(row, LICENCE_COLUMNS), _first_filled(row, REPOSITORY_COLUMNS)
    return Document(text, place, str(language) if language else None, licence, repository, conversation)


@dataclass(frozen=True)
class _Rows:
    """Rows of a table to documents, with what that needs to know."""

    key: str
    corpus: CorpusConfig
    dropped: Dropped

    def document(self, row: Any, place: str) -> Document | None:
        if not isinstance(row, dict):
            self.dropped.unreadable(
                f"{place} is a JSON {type(row).__name__}, not an object with a column '{self.corpus.text_column}'"
            )
            return None
        return row_document(row, place, self.key, self.corpus, self.dropped)

    def documents(self, rows: Iterable[tuple[Any, str]]) -> Iterator[Document]:
        found = (self.document(row, place) for row, place in rows)
        return (document for document in found if document is not None)

    def of_columns(self, batch: Any) -> list[dict[str, Any]]:
        """The rows of an Arrow batch."""
        values: list[dict[str, Any]] = batch.to_pylist()
        return [without_nulls(row) for row in values] if self.corpus.conversations else values

    def columns(self, names: list[str]) -> list[str]:
        """Those that are read, of a table's columns; all of them where the text's is missing, for the message."""
        wanted = {self.corpus.text_column, self.corpus.language_column, *LICENCE_COLUMNS, *REPOSITORY_COLUMNS}
        if self.corpus.conversations:
            return [name for name in names if name in wanted | {CHAT, META, TOOLS}]
        return [name for name in names if name in wanted] if self.corpus.text_column in names else names


def _first_filled(row: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    """The value of the first of the usual column names that is filled."""
    for column in columns:
        value = row.get(column)
        if value:
            return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return None


def _jsonl(file: IO[bytes], part: Part, rows: _Rows) -> Iterator[Document]:
    """The lines that begin in the part; those after the file's first bytes are named by their byte."""
    begin = part.start
    if begin:
        file.seek(begin - 1)
        begin += len(file.readline()) - 1
    for number in itertools.count(1):
        line = b"" if part.stop is not None and begin >= part.stop else file.readline(2 * MOST_BYTES)
        if not line:
            return
        place = f"{part.name}: the line at byte {begin}" if part.start else f"{part.name}:{number}"
        begin += len(line)
        if len(line) == 2 * MOST_BYTES:
            rows.dropped.unreadable(f"{place}: {_too_large()}")
            while line and not line.endswith(b"\n"):
                line = file.readline(MOST_BYTES)
                begin += len(line)
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            rows.dropped.unreadable(f"{place} is not UTF-8 (byte {error.start + 1} of the line)")
            continue
        except (ValueError, RecursionError) as error:
            rows.dropped.unreadable(f"{place} is not JSON: {_first_line(error)}")
            continue
        yield from rows.documents([(row, place)])


def _json(file: IO[bytes], part: Part, rows: _Rows) -> Iterator[Document]:
    """A list of objects, one object, or objects one after another."""
    values = json_values(io.TextIOWrapper(file, encoding="utf-8-sig"), 2 * MOST_BYTES)
    try:
        for number, value in enumerate(values, start=1):
            yield from rows.documents([(value, f"{part.name}:{number}")])
    except (ValueError, RecursionError) as error:
        rows.dropped.unreadable(f"{part.name} is not JSON: {_first_line(error)}")


def _csv(file: IO[bytes], part: Part, rows: _Rows) -> Iterator[Document]:
    csv.field_size_limit(MOST_BYTES)
    separator = "\t" if ".tsv" in part.name.lower() else ","
    # a byte that is no text spoils its own row only, as a lone surrogate
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    table = csv.DictReader(lines, delimiter=separator)
    yield from rows.documents((row, f"{part.name}:{table.line_num}") for row in table)


def _parquet(file: IO[bytes], part: Part, rows: _Rows) -> Iterator[Document]:
    with pyarrow.parquet.ParquetFile(file) as table:
        names, groups = table.schema_arrow.names, range(table.num_row_groups)
        if rows.corpus.text_column not in names and not (rows.corpus.conversations and CHAT in names):
            rows.document(dict.fromkeys(names), part.name)
            return
        number = sum(table.metadata.row_group(group).num_rows for group in groups[: part.start])
        bytes_a_row = sum(table.metadata.row_group(group).total_byte_size for group in groups) // max(
            1, table.metadata.num_rows
        )
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, bytes_a_row)))
        for batch in table.iter_batches(size, [*groups[part.start : part.stop]], columns=rows.columns(names)):
            values = rows.of_columns(batch)
            yield from rows.documents((row, f"{part.name}:{number + index}") for index, row in enumerate(values, 1))
            number += len(values)


def _arrow(file: IO[bytes], part: Part, rows: _Rows) -> Iterator[Document]:
    """Arrow's stream, which `datasets` writes to a folder, or its file format."""
    magic = file.read(6)
    file.seek(0)
    number = 0
    if magic == b"ARROW1":
        table = pyarrow.ipc.open_file(file)
        batches: Iterable[Any] = (table.get_batch(index) for index in range(table.num_record_batches))
    else:
        batches = pyarrow.ipc.open_stream(file)
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            piece = batch.slice(start, BATCH_ROWS).select(rows.columns(batch.schema.names))
            for row in rows.of_columns(piece):
                number += 1
                yield from rows.documents([(row, f"{part.name}:{number}")])


def _text(file: IO[bytes], name: str, dropped: Dropped) -> Iterator[Document]:
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        dropped.unreadable(f"{name}: {_too_large()}")
        return
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        dropped.unreadable(f"{name} is not UTF-8 (byte {error.start + 1})")
        return
    yield Document(text, name, language_of(PurePosixPath(without_compression(name)[0]).suffix, text))


def _tar(file: IO[bytes], name: str, key: str, corpus: CorpusConfig, dropped: Dropped) -> Iterator[Document]:
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            place = f"{name}/{member.name}"
            try:
                yield from _member(archive.extractfile(member), member.name, place, key, corpus, dropped)
            except READ_ERRORS as error:  # those after it can be read
                dropped.unreadable(f"{place} cannot be read: {_first_line(error)}")


def _member(
    content: IO[bytes] | None, name: str, place: str, key: str, corpus: CorpusConfig, dropped: Dropped
) -> Iterator[Document]:
    kind = kind_of(name, corpus)
    if kind is None or kind == ".tar" or content is None:
        dropped.add("unknown file type", place)
    elif kind == "text":
        yield from _text(decompressed(content, name), place, dropped)
    elif kind in (".parquet", ".arrow"):  # they seek
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(decompressed(content, name), whole)
            whole.seek(0)
            yield from READERS[kind](whole, Part(place), _Rows(key, corpus, dropped))
    else:
        yield from READERS[kind](decompressed(content, name), Part(place), _Rows(key, corpus, dropped))


def _too_large() -> str:
    return f"a document of more than {MOST_BYTES >> 20} MiB; divide it, or write its parts as rows of a JSONL file"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


READERS: dict[str, Callable[[IO[bytes], Part, _Rows], Iterator[Document]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
