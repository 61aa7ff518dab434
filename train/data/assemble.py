"""The corpora of a run out of finished shards: duplicates left out, validation chosen, bounds kept.

No text is read, and no token to train on is copied: `token_spans.py` says where they lie.
Memory: two bytes a document, a count a repository, and what `duplicates.py` and one shard's manifest need.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy
from numpy.typing import NDArray

from conf.errors import DataError
from conf.schema import CorpusConfig, DataConfig
from model.tokenizer import Tokenizer
from train.data.dropped import EXAMPLES, SHOWN_CHARACTERS, Dropped, example
from train.data.fates import (
    ABOVE_VALIDATION,
    DUPLICATE,
    NEAR_DUPLICATE,
    TRAIN,
    VALIDATION,
    Part,
    choose,
)
from train.data.filters import ValidationSelection, is_held_out
from train.data.languages import LanguageWriter
from train.data.lone_document import held_out_tokens, split_inside
from train.data.loss_mask import ids_of
from train.data.shard import ShardTask
from train.data.token_file import TokenFile, TokenFileWriter
from train.data.token_spans import SHARD_TOKENS, TokenSpansWriter

REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near duplicate", ABOVE_VALIDATION: "above validation_bytes"}
SPLITS = {TRAIN: "train", VALIDATION: "validation"}
LARGEST_REPOSITORIES = 10  # that are named, by their text


def assemble(
    made: list[tuple[ShardTask, dict[str, Any]]],
    data: DataConfig,
    tokenizer: Tokenizer,
    folder: Path,
    unread: dict[str, Dropped],
) -> dict[str, dict[str, Any]]:
    """Write `train.spans`, `validation.bin`, `manifest.jsonl` and `dropped.json` of each corpus; return its counts.

    unread: corpus -> files of its folders that are of no known kind.
    Errors: `DataError` for a corpus without a document to train on or to validate with, and for a damaged shard.
    """
    parts: dict[str, list[Part]] = {}
    for task, record in made:
        fate = numpy.full(record["documents"], TRAIN, numpy.uint8)
        parts.setdefault(task.shard.key, []).append(Part(task, record, fate))
    together = [[one for of_corpus in parts.values() for one in of_corpus]]
    for scope in together if data.dedup_across_corpora else parts.values():
        choose(scope, data.dedup)
    return {
        key: _write_corpus(key, of_corpus, data, tokenizer, folder / key, unread.get(key, Dropped()))
        for key, of_corpus in parts.items()
    }


def _write_corpus(
    key: str, parts: list[Part], data: DataConfig, tokenizer: Tokenizer, folder: Path, dropped: Dropped
) -> dict[str, Any]:
    lone = sum(_kept(parts, TRAIN)) == 1 and all(_can_be_cut(part) for part in parts)
    lone = lone and not parts[0].task.corpus.conversations
    if not lone:
        _mark_validation(parts, data)
    for part in parts:
        dropped.merge(part.record["dropped"])
    for reason, name in REASONS.items():
        _count(dropped, name, [(part, part.fate == reason) for part in parts], tokenizer)
    corpus = parts[0].task.corpus
    if not lone:
        _refuse_empty(key, corpus, data, parts, dropped)
    folder.mkdir(parents=True)
    counts: Counter[str] = Counter()
    repositories: Counter[str] = Counter()  # bytes to train on
    digest = hashlib.sha256()  # of what is trained on, in its order
    dtype = parts[0].task.dtype
    with (
        (folder / "manifest.jsonl").open("w") as manifest,
        TokenSpansWriter(folder / "train.spans") as train,
        LanguageWriter(folder / "train.spans") as languages,
        TokenFileWriter(folder / "validation.bin", dtype) as validation,
    ):
        validation.write([tokenizer.eos])
        for part in parts:
            documents = part.documents()
            if lone:
                counts["split_inside_bytes"] += _split_lone(part, documents, data, tokenizer, train, validation)
            else:
                _refer_to_tokens(part, documents, train)
                _copy_validation(part, documents, validation)
            _copy_manifest(part, documents, manifest, repositories)
            for fate, split in SPLITS.items():
                own = documents[part.fate == fate]
                if fate == TRAIN:
                    digest.update(own["sha256"].tobytes())
                counts[f"{split}_documents"] += len(own)
                counts[f"{split}_bytes"] += int(own["bytes"].sum())
            own = documents[part.fate == TRAIN]
            lengths = numpy.array([train.tokens - 1]) if lone else own["tokens"]
            languages.write(part.record["languages"], own["language"], lengths)
        counts["train_tokens"], counts["validation_tokens"] = train.tokens, validation.tokens
        if lone:
            counts["validation_documents"], counts["validation_bytes"] = 1, counts["split_inside_bytes"]
            counts["train_bytes"] -= counts["split_inside_bytes"]
            repositories.clear()  # there is one
    (folder / "dropped.json").write_text(json.dumps(dropped.record(), indent=2) + "\n")
    conversations = parts[0].task.corpus.conversations
    return {
        "dtype": dtype,
        "digest": digest.hexdigest(),
        "conversations": conversations,
        **counts,
        "languages": languages.tokens,
        "repositories": dict(repositories.most_common(LARGEST_REPOSITORIES)),
        "other_repositories": max(0, len(repositories) - LARGEST_REPOSITORIES),
        "dropped": dict(sorted(dropped.counts.items())),
    }


def _mark_validation(parts: list[Part], data: DataConfig) -> None:
    selection = ValidationSelection(data.validation_bytes)
    for part in parts:
        for _, sha256, size in _held_out(part, data.validation_fraction):
            selection.add(sha256, size)
    chosen = selection.sha256s()
    for part in parts:
        for row, sha256, _ in _held_out(part, data.validation_fraction):
            part.fate[row] = VALIDATION if sha256 in chosen else ABOVE_VALIDATION


def _held_out(part: Part, fraction: float) -> Iterator[tuple[int, bytes, int]]:
    """Row, SHA-256 and bytes of each document that is kept and belongs to the validation split."""
    documents = part.documents()
    first = documents["sha256"][:, 0].astype(numpy.uint64)
    near = (part.fate == TRAIN) & (first / 2.0**64 <= fraction + 1e-9)  # `is_held_out` is exact
    for row in numpy.flatnonzero(near).tolist():
        sha256 = documents["sha256"][row].tobytes()
        if is_held_out(sha256, fraction):
            yield row, sha256, int(documents["bytes"][row])


def _count(dropped: Dropped, reason: str, found: list[tuple[Part, NDArray[numpy.bool_]]], tokenizer: Tokenizer) -> None:
    """Count the documents that were left out here; the first few are the examples."""
    total = sum(int(rows.sum()) for _, rows in found)
    if total:
        examples: list[str] = []
        for part, rows in found:
            if len(examples) < EXAMPLES and rows.any():
                wanted = numpy.flatnonzero(rows)[: EXAMPLES - len(examples)].tolist()
                with (part.task.folder / "manifest.jsonl").open() as lines:
                    places = [json.loads(line)["path"] for row, line in enumerate(lines) if row in wanted]
                examples += [
                    example(place, _beginning(part, row, tokenizer)) for row, place in zip(wanted, places, strict=True)
                ]
        dropped.merge({reason: {"count": total, "examples": examples}})


def _beginning(part: Part, row: int, tokenizer: Tokenizer) -> str:
    """The first characters of a document, out of its tokens."""
    counts = part.documents()["tokens"][: row + 1].astype(numpy.int64)
    start, own = int(counts[:-1].sum()), int(counts[-1]) - 1
    ids = TokenFile(part.task.folder / SHARD_TOKENS, part.task.dtype).read(start, start + own)
    return tokenizer.decode(ids_of(ids[: 4 * SHOWN_CHARACTERS]).tolist())


def _refer_to_tokens(part: Part, documents: NDArray[Any], train: TokenSpansWriter) -> None:
    """Append the tokens of the documents to train on, neighbours together; before the corpus' first, an eos."""
    kept = part.fate == TRAIN
    if kept.any():
        ends = numpy.cumsum(documents["tokens"])
        borders = numpy.flatnonzero(numpy.diff(kept, prepend=False, append=False))
        starts, stops = (ends - documents["tokens"])[borders[::2]], ends[borders[1::2] - 1]
        if not train.tokens:  # of what ends the first document
            end = ends[borders[0]]
            starts, stops = numpy.insert(starts, 0, end - 1), numpy.insert(stops, 0, end)
        train.write(part.task.folder, starts.astype(numpy.int64), stops.astype(numpy.int64))


def _can_be_cut(part: Part) -> bool:
    return bool((part.documents()["tokens"][part.fate == TRAIN] > 2).all())  # two, and its eos


def _split_lone(
    part: Part,
    documents: NDArray[Any],
    data: DataConfig,
    tokenizer: Tokenizer,
    train: TokenSpansWriter,
    validation: TokenFileWriter,
) -> int:
    """Split the corpus' only document, where it is in this part; return the bytes that are held out."""
    for row in numpy.flatnonzero(part.fate == TRAIN).tolist():
        stop, tokens = int(documents["tokens"][: row + 1].sum()), int(documents["tokens"][row])
        size = int(documents["bytes"][row])
        held_out = held_out_tokens(tokens - 1, size, data.validation_fraction, data.validation_bytes)
        of = part.task
        return split_inside(of.folder, stop - tokens, stop, held_out, tokenizer, train, of.dtype, validation)
    return 0


def _copy_validation(part: Part, documents: NDArray[Any], validation: TokenFileWriter) -> None:
    rows = numpy.flatnonzero(part.fate == VALIDATION)
    if len(rows):
        source = TokenFile(part.task.folder / SHARD_TOKENS, part.task.dtype)
        ends = numpy.cumsum(documents["tokens"])
        for row in rows:
            validation.write(source.read(int(ends[row] - documents["tokens"][row]), int(ends[row])))


def _copy_manifest(part: Part, documents: NDArray[Any], manifest: TextIO, repositories: Counter[str]) -> None:
    """Append what becomes part of the corpus, and count the bytes to train on of each repository that is named."""
    with (part.task.folder / "manifest.jsonl").open() as lines:
        for fate, size, line in zip(part.fate.tolist(), documents["bytes"].tolist(), lines, strict=True):
            if fate in SPLITS:
                manifest.write(f'{line.rstrip()[:-1]}, "split": "{SPLITS[fate]}"}}\n')
            if fate == TRAIN and (repository := json.loads(line)["repository"]) is not None:
                repositories[repository] += size


def _kept(parts: list[Part], *fates: int) -> Iterator[int]:
    return (int(numpy.isin(part.fate, fates).sum()) for part in parts)


def _refuse_empty(key: str, corpus: CorpusConfig, data: DataConfig, parts: list[Part], dropped: Dropped) -> None:
    where = f"corpus {key} ({', '.join(corpus.paths) or corpus.name})"
    documents = sum(_kept(parts, TRAIN, VALIDATION, ABOVE_VALIDATION))
    if not documents:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.counts.items()))
        raise DataError(f"{where} is empty: no document was kept" + (f"; dropped: {reasons}" if reasons else ""))
    if not sum(_kept(parts, TRAIN)):
        raise DataError(
            f"{where}: all of its documents ({documents}) are held out; give more documents, or lower "
            f"data.validation_fraction={data.validation_fraction}"
        )
    if not sum(_kept(parts, VALIDATION)):
        raise DataError(
            f"{where}: none of its documents ({documents:,}) is in the validation set; give more and shorter "
            f"documents, or raise data.validation_fraction={data.validation_fraction} or "
            f"data.validation_bytes={data.validation_bytes}"
        )
