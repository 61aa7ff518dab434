"""One shard of a corpus: read, filtered, redacted and tokenized into a folder of its own, by any process.

    tokens.bin       the ids of each kept document and an eos after it, with checksums (token_file.py)
    documents.bin    a `DOCUMENT` for each
    bands.bin        with data.dedup=minhash: `[documents, BANDS]` uint64, by which near duplicates are found
    manifest.jsonl   a line for each: path, bytes, sha256, language, licence, repository
    shard.json       the totals, and what was left out

The folder's name is a hash of all that determines its content, so that a finished shard is never made twice: not by a
restarted preparation, nor for another validation set, mixture, stage or model.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from conf.choices import Dedup, Source
from conf.errors import DataError
from conf.partial_folder import partial_folder
from conf.schema import CorpusConfig, DataConfig, plain
from model.tokenizer import Tokenizer, load_tokenizer
from model.tokenizer.chat import ChatTemplate
from train.data.conversations import Conversation, encode_conversation
from train.data.decontaminate import contamination
from train.data.documents import Document
from train.data.dropped import Dropped
from train.data.files import file_shards
from train.data.filters import drop_reason, text_sha256
from train.data.formats import Part, read_part
from train.data.git_history import git_shards, read_git
from train.data.hub import hub_parts, read_hub
from train.data.local import installed_packages, read_local
from train.data.minhash import band_hashes
from train.data.redact import around_a_mark, redact
from train.data.storage import FileState, state_of
from train.data.token_file import TokenFileWriter
from train.data.token_spans import SHARD_TOKENS

FORMAT = 2  # increase when the same settings and sources give another shard
DOCUMENT = numpy.dtype([("sha256", ">u8", (4,)), ("tokens", "<u8"), ("bytes", "<u8"), ("language", "<u4")])
MOST_HASHES = 1 << 20  # of a shard's documents, kept to find duplicates at once; `duplicates.py` finds the others


Encoded = tuple[list[int] | NDArray[numpy.integer], int]  # tokens, bytes


@dataclass(frozen=True)
class Shard:
    """A part of corpus `key` that is prepared by itself: parts of files, commits of
    a repository, one file of a hub's subset, or all of local.

    group: shards of one group are read in order until they hold limit_bytes of kept text.
    """

    key: str
    group: int
    parts: tuple[Part, ...] = ()
    states: tuple[FileState, ...] = ()
    subset: str | None = None
    subset_part: int = 0
    bytes: int = 0  # of input, where it is known
    limit_bytes: int | None = None


@dataclass(frozen=True)
class ShardTask:
    """What a process needs to make one shard."""

    shard: Shard
    corpus: CorpusConfig
    data: DataConfig
    tokenizer: Path
    dtype: str  # of the token ids
    folder: Path
    context_length: int  # tokens; a conversation that is longer is not kept whole


@dataclass(frozen=True)
class KeptDocument:
    """A document that passed the filters. text: as it is tokenized, with the language before it where asked for."""

    text: str
    sha256: bytes  # of the text without the language
    document: Document
    conversation: Conversation | None = None


def list_shards(key: str, corpus: CorpusConfig) -> list[Shard]:
    """The shards of one corpus, in order. Errors: `DataError` for what does not exist or cannot be reached."""
    limit = corpus.max_bytes
    if corpus.source is Source.files:
        return [
            Shard(key, 0, one.parts, one.states, bytes=one.bytes, limit_bytes=limit) for one in file_shards(key, corpus)
        ]
    if corpus.source is Source.git:
        return [
            Shard(key, 0, (one.part,), (one.state,), bytes=one.bytes, limit_bytes=limit)
            for one in git_shards(key, corpus)
        ]
    if corpus.source is Source.local:
        packages = hashlib.sha256("\n".join(installed_packages()).encode()).hexdigest()
        return [Shard(key, 0, states=(FileState("installed packages", 0, packages),), limit_bytes=limit)]
    subsets: list[str | None] = [*corpus.subsets] or [None]
    share = None if limit is None else -(-limit // len(subsets))
    return [
        Shard(key, group, subset=subset, subset_part=part, limit_bytes=share)
        for group, subset in enumerate(subsets)
        for part in range(hub_parts(key, corpus, subset))
    ]


def shard_name(shard: Shard, corpus: CorpusConfig, data: DataConfig, tokenizer: str, context_length: int = 0) -> str:
    """A hash of what determines the shard's content. tokenizer: its files' hash."""
    settings = plain(corpus)
    settings["conversations"] = context_length if corpus.conversations else None
    for name in ("paths", "subsets", "max_bytes"):
        del settings[name]
    inputs = {
        "format": FORMAT,
        "parts": [[part.name, part.start, part.stop] for part in shard.parts],
        "states": [[state.name, state.bytes, state.changed] for state in shard.states],
        "subset": [shard.subset, shard.subset_part],
        "limit": shard.limit_bytes if corpus.source is not Source.files else None,
        "corpus": settings,
        "on_error": data.on_error.value,
        "filters": plain(data.filters) if corpus.code else None,
        "redact": sorted(data.redact),
        "decontaminate": decontamination_inputs(data),
        "minhash": data.dedup is Dedup.minhash,
        "tokenizer": tokenizer,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def decontamination_inputs(data: DataConfig) -> list[Any]:
    """The content of the files of prompts. Errors: `DataError` for one that is not there."""
    contents = []
    for source in data.decontaminate:
        try:
            contents.append(source if source == "humaneval" else hashlib.sha256(Path(source).read_bytes()).hexdigest())
        except OSError as error:
            raise DataError(f"data.decontaminate: {source} cannot be read: {error.strerror}") from None
    return [*contents, data.decontaminate_words] if contents else []


def kept_documents(shard: Shard, corpus: CorpusConfig, data: DataConfig, dropped: Dropped) -> Iterator[KeptDocument]:
    """The documents of a shard that pass the filters, each text once, until its limit is reached.

    Errors: `DataError` for what cannot be read, under on_error=fail, and for a file that changes meanwhile.
    """
    seen, total = set[bytes](), 0
    limit = None if corpus.source is Source.files else shard.limit_bytes
    for document in _read(shard, corpus, dropped):
        text, conversation = document.text, document.conversation
        if corpus.conversations and conversation is None:
            dropped.unreadable(f"{document.source} is text; conversations are rows of tables, such as JSONL")
            continue
        if data.redact:
            text = redact(text, data.redact)
            conversation = conversation and conversation.mapped(lambda one: redact(one, data.redact))
        if text is not document.text and text != document.text:
            dropped.add("redacted, kept", document.source, around_a_mark(text))
        sha256 = text_sha256(text)
        reason = _reason(text, corpus, data) or ("duplicate" if sha256 in seen else None)
        if reason is not None:
            dropped.add(reason, document.source, text)
            continue
        if len(seen) < MOST_HASHES:
            seen.add(sha256)
        prefix = f"{document.language}\n" if corpus.language_prefix and document.language else ""
        text = prefix + text
        before, total = total, total + len(text.encode())
        if limit is not None and total > limit and before:
            break
        yield KeptDocument(text, sha256, document, conversation)
    if corpus.source is Source.files and any(state_of(state.name) != state for state in shard.states):
        changed = next(state.name for state in shard.states if state_of(state.name) != state)
        raise DataError(f"{changed} changed while it was read; the same command reads it again")


def write_shard(task: ShardTask) -> dict[str, Any]:
    """Make the shard of `task`, unless it is there; return what is in its shard.json."""
    record = read_record(task.folder)
    if record is not None:
        return record
    with partial_folder(task.folder, shared=True) as partial:
        record = _write(task, partial)
        (partial / "shard.json").write_text(json.dumps(record) + "\n")
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """shard.json of a finished shard, None where it is not finished."""
    try:
        record: dict[str, Any] = json.loads((folder / "shard.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return record


def _write(task: ShardTask, partial: Path) -> dict[str, Any]:
    tokenizer, dropped = _tokenizer(task.tokenizer), Dropped(task.data.on_error)
    languages: dict[str, int] = {}
    minhash = task.data.dedup is Dedup.minhash
    documents = size = 0
    encode = _encoder(task, tokenizer, dropped)
    with ExitStack() as stack:
        tokens = stack.enter_context(TokenFileWriter(partial / SHARD_TOKENS, task.dtype))
        rows = stack.enter_context((partial / "documents.bin").open("wb"))
        bands = stack.enter_context((partial / "bands.bin").open("wb")) if minhash else None
        manifest = stack.enter_context((partial / "manifest.jsonl").open("w"))
        for kept in kept_documents(task.shard, task.corpus, task.data, dropped):
            encoded = encode(kept)
            if encoded is None:
                continue
            ids, length = encoded
            tokens.write(ids)
            language = languages.setdefault(kept.document.language or "", len(languages))
            hashes = numpy.frombuffer(kept.sha256, ">u8")
            rows.write(numpy.array([(hashes, len(ids), length, language)], DOCUMENT).tobytes())
            if bands is not None:
                bands.write(band_hashes(kept.text).astype("<u8").tobytes())
            manifest.write(_manifest_line(kept, length))
            documents, size = documents + 1, size + length
    counts = {"documents": documents, "bytes": size, "tokens": tokens.tokens}
    return {**counts, "languages": list(languages), "dropped": dropped.record()}


def _encoder(task: ShardTask, tokenizer: Tokenizer, dropped: Dropped) -> Callable[[KeptDocument], Encoded | None]:
    """What gives the tokens of a document with the eos after it, and the bytes that are learnt of it."""
    if not task.corpus.conversations:
        return lambda kept: ([*tokenizer.encode(kept.text), tokenizer.eos], len(kept.text.encode()))
    template = ChatTemplate(tokenizer)

    def encode(kept: KeptDocument) -> Encoded | None:
        assert kept.conversation is not None
        place = kept.document.source
        return encode_conversation(template, tokenizer, task.context_length, dropped, kept.conversation, place)

    return encode


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def _read(shard: Shard, corpus: CorpusConfig, dropped: Dropped) -> Iterator[Document]:
    if corpus.source is Source.local:
        yield from read_local(corpus.name)
    elif corpus.source is Source.hub:
        yield from read_hub(shard.key, corpus, shard.subset, shard.subset_part, dropped)
    elif corpus.source is Source.git:
        for part, state in zip(shard.parts, shard.states, strict=True):
            yield from read_git(part, state.changed, corpus, dropped)
    else:
        for part in shard.parts:
            yield from read_part(part, shard.key, corpus, dropped)


def _reason(text: str, corpus: CorpusConfig, data: DataConfig) -> str | None:
    if not text.strip():
        return "empty"
    reason = drop_reason(text, data.filters) if corpus.code else None
    if reason is None and data.decontaminate:
        found = contamination(tuple(data.decontaminate), data.decontaminate_words).found_in(text)
        return "in a benchmark" if found else None
    return reason


def _manifest_line(kept: KeptDocument, length: int) -> str:
    document = kept.document
    line = {
        "path": document.source,
        "bytes": length,
        "sha256": kept.sha256.hex(),
        "language": document.language,
        "licence": document.licence,
        "repository": document.repository,
    }
    return json.dumps(line) + "\n"
