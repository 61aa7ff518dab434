"""Preparation of one corpus in two passes: `filter_documents` reads, filters and splits, `write_tokens` tokenizes.

Filtered documents are kept in a JSONL file between the passes, since the tokenizer is trained on all corpora first.
Memory: one document, the hashes that find duplicates (about 100 bytes a document), and those of the validation set.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy

from conf.choices import Source
from conf.errors import DataError
from conf.schema import CorpusConfig, DataConfig
from model.tokenizer import Tokenizer
from train.data.documents import Document
from train.data.files import UnreadableDocuments, read_files
from train.data.filters import ValidationSelection, drop_reason, is_held_out, text_sha256
from train.data.hub import read_hub
from train.data.local import read_local
from train.data.progress import progress_bar

OVERSAMPLING = 1.2  # documents are drawn for this multiple of the wanted bytes, so that the sample is not short


@dataclass(frozen=True)
class FilteredDocument:
    """A document that passed the filters: one line of the JSONL file between the two passes."""

    text: str  # as it is tokenized: with the language name before it where the corpus has language_prefix
    path: str
    sha256: str  # of the text without the language prefix
    language: str | None
    licence: str | None
    held_out: bool

    @property
    def bytes(self) -> int:
        """Length of `text` in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True)
class FilteredCorpus:
    """Result of the first pass: the JSONL file of filtered documents and its statistics."""

    file: Path
    documents: int
    bytes: int
    train_bytes: int
    validation: set[str]  # SHA-256 in hex of each document of the validation set
    dropped: Counter[str]  # reason -> number of documents


@dataclass(frozen=True)
class SplitSize:
    """Size of one written split. `tokens` counts an eos before the first document and one after each."""

    documents: int
    bytes: int  # UTF-8 bytes of the tokenized text, without the eos
    tokens: int


def filter_documents(key: str, corpus: CorpusConfig, data: DataConfig, file: Path) -> FilteredCorpus:
    """First pass over corpus `key`: write the documents that pass the filters to `file`, without duplicates.

    Errors: `DataError` for an unreadable document under on_error=fail, and for an empty training or validation set.
    """
    unreadable = UnreadableDocuments(data.on_error)
    dropped, seen, validation = unreadable.counts, set[bytes](), ValidationSelection(data.validation_bytes)
    documents = total = train = 0
    with file.open("w") as lines, progress_bar(f"{key}: reading", corpus.max_bytes) as update:
        for document in _read(key, corpus, unreadable):
            sha256 = text_sha256(document.text)
            reason = _drop_reason(document, sha256, corpus, data, seen)
            if reason is not None:
                dropped[reason] += 1
                continue
            record = _filtered(document, sha256, corpus, data.validation_fraction)
            size = record.bytes
            if corpus.max_bytes is not None and total + size > corpus.max_bytes and documents:
                break
            seen.add(sha256)
            lines.write(json.dumps(asdict(record)) + "\n")
            documents, total = documents + 1, total + size
            if record.held_out:
                validation.add(sha256, size)
            else:
                train += size
            update(total, documents)
    _refuse_empty(key, corpus, data, documents, train, validation, dropped)
    validation_sha256s = {sha256.hex() for sha256 in validation.sha256s()}
    return FilteredCorpus(file, documents, total, train, validation_sha256s, dropped)


def sample_for_tokenizer(filtered: FilteredCorpus, max_bytes: int) -> Iterator[str]:
    """A random sample, chosen by hash, of the training documents: at most `max_bytes` bytes of text."""
    share = OVERSAMPLING * max_bytes / filtered.train_bytes
    left = max_bytes
    for document in _read_filtered(filtered.file):
        chance = int(document.sha256[16:32], 16) / 2**64  # not the digits that decide the split
        if document.held_out or chance >= share:
            continue
        if document.bytes > left:
            yield document.text.encode()[:left].decode(errors="ignore")
            return
        left -= document.bytes
        yield document.text


def write_tokens(
    key: str, filtered: FilteredCorpus, tokenizer: Tokenizer, dtype: str, folder: Path
) -> dict[str, SplitSize]:
    """Second pass: write `train.bin`, `validation.bin` and `manifest.jsonl` to `folder`; return split -> size.

    Every token file begins with an eos, so that the first token of the first document is predicted too.
    """
    folder.mkdir(parents=True)
    done = 0
    with (
        (folder / "manifest.jsonl").open("w") as manifest,
        (folder / "train.bin").open("wb") as train,
        (folder / "validation.bin").open("wb") as validation,
        progress_bar(f"{key}: tokenizing", filtered.bytes) as update,
    ):
        writers = {
            "train": _TokenWriter(train, tokenizer, dtype),
            "validation": _TokenWriter(validation, tokenizer, dtype),
        }
        for number, document in enumerate(_read_filtered(filtered.file), start=1):
            done += document.bytes
            if document.held_out and document.sha256 not in filtered.validation:
                filtered.dropped["above validation_bytes"] += 1
                continue
            split = "validation" if document.held_out else "train"
            writers[split].write(document)
            _write_manifest_line(manifest, document, split)
            update(done, number, sum(writer.tokens for writer in writers.values()))
    return {split: SplitSize(writer.documents, writer.bytes, writer.tokens) for split, writer in writers.items()}


def _read(key: str, corpus: CorpusConfig, unreadable: UnreadableDocuments) -> Iterator[Document]:
    if corpus.source is Source.local:
        return read_local(corpus.name)
    if corpus.source is Source.files:
        return read_files(key, corpus, unreadable)
    return read_hub(key, corpus, unreadable)


def _drop_reason(
    document: Document, sha256: bytes, corpus: CorpusConfig, data: DataConfig, seen: set[bytes]
) -> str | None:
    if not document.text.strip():
        return "empty"
    if sha256 in seen:
        return "duplicate"
    return drop_reason(document.text, data.filters) if corpus.code else None


def _filtered(document: Document, sha256: bytes, corpus: CorpusConfig, validation_fraction: float) -> FilteredDocument:
    prefix = f"{document.language}\n" if corpus.language_prefix and document.language else ""
    return FilteredDocument(
        text=prefix + document.text,
        path=document.source,
        sha256=sha256.hex(),
        language=document.language,
        licence=document.licence,
        held_out=is_held_out(sha256, validation_fraction),
    )


def _refuse_empty(
    key: str,
    corpus: CorpusConfig,
    data: DataConfig,
    documents: int,
    train_bytes: int,
    validation: ValidationSelection,
    dropped: Counter[str],
) -> None:
    where = f"corpus {key} ({', '.join(corpus.paths) or corpus.name})"
    if not documents:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
        raise DataError(f"{where} is empty: no document was kept" + (f"; dropped: {reasons}" if reasons else ""))
    if not train_bytes:
        raise DataError(
            f"{where}: all of its documents ({documents}) are held out; give more documents, or lower "
            f"data.validation_fraction={data.validation_fraction}"
        )
    if not validation.sha256s():
        raise DataError(
            f"{where}: none of its documents ({documents:,}) is in the validation set; give more and shorter "
            f"documents, or raise data.validation_fraction={data.validation_fraction} or "
            f"data.validation_bytes={data.validation_bytes}"
        )


def _read_filtered(file: Path) -> Iterator[FilteredDocument]:
    with file.open() as lines:
        for line in lines:
            yield FilteredDocument(**json.loads(line))


def _write_manifest_line(manifest: TextIO, document: FilteredDocument, split: str) -> None:
    line = {
        "path": document.path,
        "bytes": document.bytes,
        "sha256": document.sha256,
        "language": document.language,
        "licence": document.licence,
        "split": split,
    }
    manifest.write(json.dumps(line) + "\n")


class _TokenWriter:
    """Writes one token file and counts its documents, bytes and tokens."""

    def __init__(self, file: BinaryIO, tokenizer: Tokenizer, dtype: str) -> None:
        self._file, self._tokenizer, self._dtype = file, tokenizer, dtype
        self.documents = self.bytes = self.tokens = 0
        self._append([tokenizer.eos])

    def write(self, document: FilteredDocument) -> None:
        self._append([*self._tokenizer.encode(document.text), self._tokenizer.eos])
        self.documents += 1
        self.bytes += document.bytes

    def _append(self, ids: list[int]) -> None:
        self._file.write(numpy.array(ids, dtype=self._dtype).tobytes())
        self.tokens += len(ids)
