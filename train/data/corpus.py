"""One corpus on its way to tokens, in two passes: read, filter and split it; then, with a tokenizer, write it.

The documents that are kept wait on disk between the passes, since the tokenizer is trained on all corpora. In memory
are one document at a time, the hashes that find duplicates (about 100 bytes a document), and the hashes held out.
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
from train.data.files import Broken, read_files
from train.data.filters import ValidationPart, digest, is_held_out, why_dropped
from train.data.hub import read_hub
from train.data.local import harvest
from train.data.progress import progress_bar

SPREAD = 1.2  # a sample takes this much more than its share by chance, then stops at the share


@dataclass(frozen=True)
class Kept:
    """A document that is kept, as it waits on disk."""

    text: str  # with the language before it where the corpus asks for that: what is tokenized
    path: str
    sha256: str  # of the text without the language
    language: str | None
    licence: str | None
    held_out: bool

    @property
    def bytes(self) -> int:
        """Length of the tokenized text in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True)
class Gathered:
    """What the first pass found."""

    file: Path
    documents: int
    bytes: int
    train_bytes: int
    validation: set[str]  # SHA-256 of each document of the validation part
    dropped: Counter[str]


@dataclass(frozen=True)
class Part:
    """What was written of one split: `tokens` include an eos before the first document and after each."""

    documents: int
    bytes: int  # UTF-8 bytes of the text that the tokens stand for
    tokens: int


def gather(key: str, corpus: CorpusConfig, data: DataConfig, file: Path) -> Gathered:
    """First pass over corpus `key`: keep, in `file`, what passes the filters, each text once.

    Errors: `DataError` where a document is broken under on_error=fail, or nothing is left to train or to evaluate on.
    """
    broken = Broken(data.on_error)
    dropped, seen, validation = broken.count, set[bytes](), ValidationPart(data.validation_bytes)
    documents = total = train = 0
    with file.open("w") as kept, progress_bar(f"{key}: reading", corpus.max_bytes) as advance:
        for document in _read(key, corpus, broken):
            identity = digest(document.text)
            reason = _why_dropped(document, identity, corpus, data, seen)
            if reason is not None:
                dropped[reason] += 1
                continue
            record = _kept(document, identity, corpus, data.validation_fraction)
            size = record.bytes
            if corpus.max_bytes is not None and total + size > corpus.max_bytes and documents:
                break
            seen.add(identity)
            kept.write(json.dumps(asdict(record)) + "\n")
            documents, total = documents + 1, total + size
            if record.held_out:
                validation.offer(identity, size)
            else:
                train += size
            advance(total, documents)
    _refuse_empty(key, corpus, data, documents, train, validation, dropped)
    held_out = {identity.hex() for identity in validation.identities()}
    return Gathered(file, documents, total, train, held_out, dropped)


def training_sample(gathered: Gathered, most_bytes: int) -> Iterator[str]:
    """Texts of the train part, `most_bytes` at most, chosen by their hashes and so spread over the corpus."""
    share = SPREAD * most_bytes / gathered.train_bytes
    left = most_bytes
    for document in _waiting(gathered.file):
        chance = int(document.sha256[16:32], 16) / 2**64  # other digits than those that chose the split
        if document.held_out or chance >= share:
            continue
        if document.bytes > left:
            yield document.text.encode()[:left].decode(errors="ignore")
            return
        left -= document.bytes
        yield document.text


def write_tokens(key: str, gathered: Gathered, tokenizer: Tokenizer, dtype: str, folder: Path) -> dict[str, Part]:
    """Second pass: `train.bin`, `validation.bin` and `manifest.jsonl` in `folder`; what each split has come to.

    Every file of tokens begins with an eos, so that the first document's first token has something to follow.
    """
    folder.mkdir(parents=True)
    done = 0
    with (
        (folder / "manifest.jsonl").open("w") as manifest,
        (folder / "train.bin").open("wb") as train,
        (folder / "validation.bin").open("wb") as validation,
        progress_bar(f"{key}: tokenizing", gathered.bytes) as advance,
    ):
        writers = {
            "train": _Writer(train, tokenizer, dtype),
            "validation": _Writer(validation, tokenizer, dtype),
        }
        for number, document in enumerate(_waiting(gathered.file), start=1):
            done += document.bytes
            if document.held_out and document.sha256 not in gathered.validation:
                gathered.dropped["above validation_bytes"] += 1
                continue
            split = "validation" if document.held_out else "train"
            writers[split].write(document)
            _record(manifest, document, split)
            advance(done, number, sum(writer.tokens for writer in writers.values()))
    return {split: Part(writer.documents, writer.bytes, writer.tokens) for split, writer in writers.items()}


def _read(key: str, corpus: CorpusConfig, broken: Broken) -> Iterator[Document]:
    if corpus.source is Source.local:
        return harvest(corpus.name)
    if corpus.source is Source.files:
        return read_files(key, corpus, broken)
    return read_hub(key, corpus, broken)


def _why_dropped(
    document: Document, identity: bytes, corpus: CorpusConfig, data: DataConfig, seen: set[bytes]
) -> str | None:
    if not document.text.strip():
        return "empty"
    if identity in seen:
        return "duplicate"
    return why_dropped(document.text, data.filters) if corpus.code else None


def _kept(document: Document, identity: bytes, corpus: CorpusConfig, validation_fraction: float) -> Kept:
    prefix = f"{document.language}\n" if corpus.language_prefix and document.language else ""
    return Kept(
        text=prefix + document.text,
        path=document.source,
        sha256=identity.hex(),
        language=document.language,
        licence=document.licence,
        held_out=is_held_out(identity, validation_fraction),
    )


def _refuse_empty(
    key: str,
    corpus: CorpusConfig,
    data: DataConfig,
    documents: int,
    train_bytes: int,
    validation: ValidationPart,
    dropped: Counter[str],
) -> None:
    where = f"corpus {key} ({', '.join(corpus.paths) or corpus.name})"
    if not documents:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
        raise DataError(f"{where} is empty: no document was kept" + (f"; dropped: {reasons}" if reasons else ""))
    if not train_bytes:
        raise DataError(
            f"{where}: all of its documents ({documents}) are held out; give more documents, or less "
            f"data.validation_fraction than {data.validation_fraction}"
        )
    if not validation.identities():
        raise DataError(
            f"{where}: none of its documents ({documents:,}) is in the validation part; give more and shorter "
            f"documents, or raise data.validation_fraction={data.validation_fraction} or "
            f"data.validation_bytes={data.validation_bytes}"
        )


def _waiting(file: Path) -> Iterator[Kept]:
    with file.open() as lines:
        for line in lines:
            yield Kept(**json.loads(line))


def _record(manifest: TextIO, document: Kept, split: str) -> None:
    line = {
        "path": document.path,
        "bytes": document.bytes,
        "sha256": document.sha256,
        "language": document.language,
        "licence": document.licence,
        "split": split,
    }
    manifest.write(json.dumps(line) + "\n")


class _Writer:
    """One file of tokens and what went into it."""

    def __init__(self, file: BinaryIO, tokenizer: Tokenizer, dtype: str) -> None:
        self._file, self._tokenizer, self._dtype = file, tokenizer, dtype
        self.documents = self.bytes = self.tokens = 0
        self._append([tokenizer.eos])

    def write(self, document: Kept) -> None:
        self._append([*self._tokenizer.encode(document.text), self._tokenizer.eos])
        self.documents += 1
        self.bytes += document.bytes

    def _append(self, ids: list[int]) -> None:
        self._file.write(numpy.array(ids, dtype=self._dtype).tobytes())
        self.tokens += len(ids)
