"""Preparation of the corpora that the stages read into token files, in a folder named by its fingerprint.

Shards of the corpora are made first, by all cores (pool.py), and stay in the cache: a preparation that was killed, or
whose corpora have grown, makes those that are missing. What a run reads of them is then chosen
(assemble.py), under a temporary name: a killed preparation is never taken for a complete one, and of two at once the
second to finish discards its own.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from conf.choices import Packing
from conf.errors import DataError, reason
from conf.extensions import data_under_way
from conf.mixture import corpora_of
from conf.partial_folder import partial_folder, remove_abandoned
from conf.plural import plural
from conf.schema import Settings, StageConfig, plain
from model.tokenizer import Tokenizer, load_tokenizer
from model.tokenizer.chat import ChatTemplate
from train.data.assemble import assemble
from train.data.best_fit import BestFitDataset, plan_folder, write_plan
from train.data.files import unread_files
from train.data.fingerprint import fingerprint, selected_corpora, settings_fingerprint
from train.data.infill import training_tokens, write_infill
from train.data.loss_mask import DTYPE
from train.data.packed_dataset import CorpusSamples, PackedDataset, Samples
from train.data.pool import make_shards
from train.data.progress import progress_bar
from train.data.shard import ShardTask, list_shards, shard_name
from train.data.token_spans import SUFFIX, shards_of
from train.data.tokenizer import origin, prepare_tokenizer, tokenizer_hash


@dataclass(frozen=True)
class CorpusFiles:
    """Tokens of one corpus. Both parts begin with an eos; each document ends with one."""

    train: Path  # where they lie in the shards (token_spans.py)
    validation: Path  # token file
    dtype: str  # numpy dtype of the token ids, little-endian
    train_documents: int
    train_bytes: int
    train_tokens: int
    validation_documents: int
    validation_bytes: int  # UTF-8 bytes of the validation text
    validation_tokens: int
    languages: dict[str, int]  # programming language -> tokens to train on, by code (languages.py); "none": other text
    dropped: dict[str, int]  # reason -> number of documents
    repositories: dict[str, int] = field(default_factory=dict)  # the largest that are named -> bytes to train on
    other_repositories: int = 0  # how many more are named
    digest: str = ""  # of the documents to train on, in their order; data of earlier versions has none
    conversations: bool = False  # tokens say whether they are learnt (loss_mask.py); then bytes are those that are

    def repositories_read(self) -> dict[str, Any]:
        """The largest repositories that its text to train on names, in bytes, and how many more there are."""
        return {"bytes": self.train_bytes, "largest": self.repositories, "others": self.other_repositories}

    def validation_samples(self, context_length: int, document_mask: bool) -> Samples:
        """The validation set in order, the last sample padded; conversations whole."""
        if self.conversations:
            return BestFitDataset(self.validation, self.dtype, context_length, document_mask, conversations=True)
        return PackedDataset(self.validation, self.dtype, context_length, True, document_mask)


@dataclass(frozen=True)
class PreparedData:
    """Prepared data, complete on disk."""

    directory: Path
    corpora: dict[str, CorpusFiles]

    def training(self, settings: Settings, stage: StageConfig | None = None) -> dict[str, CorpusSamples]:
        """Corpus -> its training samples, packed as `settings.data` says; of those that the stage reads."""
        length, data = settings.model.context_length, settings.data
        read = self.corpora if stage is None else {key: self.corpora[key] for key in corpora_of(stage)}
        found: dict[str, CorpusSamples] = {}
        for key, files in read.items():
            tokens = training_tokens(files.train, settings)
            if data.packing is Packing.best_fit:
                found[key] = BestFitDataset(tokens, files.dtype, length, data.document_mask, files.conversations)
            else:
                found[key] = PackedDataset(tokens, files.dtype, length, document_mask=data.document_mask)
        return found

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the token files."""
        return load_tokenizer(self.directory / "tokenizer")


def find_prepared(settings: Settings) -> PreparedData | None:
    """The prepared data of `settings`, None where it is not prepared yet.

    Errors: `DataError` as in `fingerprint`, and for a corpus smaller than one global batch.
    """
    prepared = _kept(settings) or open_prepared(Path(settings.data.cache) / fingerprint(settings))
    if prepared is None or not _is_packed(settings, prepared):
        return None
    _refuse_small(settings, prepared)
    return prepared


def prepare(settings: Settings, log: Callable[[str], None] = print) -> PreparedData:
    """Reuse the prepared data of `settings`, or prepare it, with one line to `log` for each corpus.

    A stage under way keeps the data that it began with, whatever has become of the sources; a warning says so.

    Errors: `DataError` for a source that cannot be read, a corpus smaller than one global batch, and a cache folder
    that cannot be written.
    """
    prepared = _kept(settings, log)
    directory = Path(settings.data.cache) / fingerprint(settings) if prepared is None else prepared.directory
    prepared = prepared or open_prepared(directory)
    if prepared is not None and _refers_to_nothing(prepared):
        log(f"data: {directory} refers to shards that are gone; they are made again")
        shutil.rmtree(directory)
        prepared = None
    if prepared is not None:
        tokens = ", ".join(f"{key} {files.train_tokens:,}" for key, files in prepared.corpora.items())
        log(f"data: reusing {directory} (tokens: {tokens})")
        _pack(settings, prepared, log)
        return prepared
    with _one_line_for_a_full_disk(directory.parent):
        remove_abandoned(directory.parent)
        _write(settings, directory, log)
    prepared = open_prepared(directory)
    if prepared is None:
        raise DataError(f"{directory} vanished while it was prepared; try again")
    _pack(settings, prepared, log)
    return prepared


def _kept(settings: Settings, log: Callable[[str], None] | None = None) -> PreparedData | None:
    """The data that the stage under way began with, where it is whole and of these settings.

    log: is told where the sources have changed since.
    """
    stage, name = data_under_way(settings) or (None, "")
    if stage is None or not name.startswith(settings_fingerprint(settings)):
        return None
    prepared = open_prepared(Path(settings.data.cache) / name)
    if prepared is None or _refers_to_nothing(prepared):
        return None
    if log is not None:
        try:
            changed = None if fingerprint(settings) == name else "files, commits or packages have changed"
        except DataError as error:
            changed = str(error)
        if changed:
            log(
                f"warning: {changed}; stage {stage} resumes with the data that it began with "
                "(with run.extend=true it reads the new data from its beginning)"
            )
    return prepared


def _is_packed(settings: Settings, prepared: PreparedData) -> bool:
    length, best_fit = settings.model.context_length, settings.data.packing is Packing.best_fit
    read = [path for files in prepared.corpora.values() for path in _read(files, settings)]
    return all(path.exists() and (not best_fit or plan_folder(path, length).is_dir()) for path in read)


def _pack(settings: Settings, prepared: PreparedData, log: Callable[[str], None]) -> None:
    """Plan data.objective=infill and the samples of data.packing=best_fit, and say how much of them is padding.

    Errors: `DataError` for a corpus smaller than one global batch.
    """
    length = settings.model.context_length
    for key, files in prepared.corpora.items():
        read = training_tokens(files.train, settings)
        with _one_line_for_a_full_disk(prepared.directory):
            if read != files.train:
                write_infill(files.train, files.dtype, settings, prepared.tokenizer())
            if settings.data.packing is not Packing.best_fit:
                continue
            for tokens in _read(files, settings):
                write_plan(tokens, files.dtype, length, files.conversations)
        samples = BestFitDataset(read, files.dtype, length, conversations=files.conversations)
        log(f"data: {key}: {len(samples):,} samples of {length:,} tokens, {samples.padding:.2%} of them padding")
    _refuse_small(settings, prepared)


def _read(files: CorpusFiles, settings: Settings) -> list[Path]:
    """The tokens that samples are made of; a validation set of text is read in order, without a plan."""
    train = training_tokens(files.train, settings)
    return [train, files.validation] if files.conversations else [train]


def _write(settings: Settings, directory: Path, log: Callable[[str], None]) -> None:
    """Make the tokenizer, the shards and from these `directory`; `summary.json`, which marks it complete, last."""
    data, cache, started = settings.data, directory.parent, time.perf_counter()
    corpora = selected_corpora(settings)
    folder = prepare_tokenizer(settings)
    tokenizer, name = load_tokenizer(folder), tokenizer_hash(folder)
    if any(corpus.conversations for corpus in corpora.values()):
        _ = ChatTemplate(tokenizer).ends  # refused before anything is read
    took = time.perf_counter() - started
    log(f"data: tokenizer{origin(settings)} with {tokenizer.vocab_size:,} pieces in {took:.0f} s")
    small, length = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4", settings.model.context_length
    tasks = [
        ShardTask(
            shard,
            corpus,
            data,
            folder,
            DTYPE if corpus.conversations else small,
            cache / "shards" / shard_name(shard, corpus, data, name, length),
            length,
        )
        for key, corpus in corpora.items()
        for shard in list_shards(key, corpus)
    ]
    remove_abandoned(cache / "shards")
    finished = sum((task.folder / "shard.json").is_file() for task in tasks)
    size = sum(task.shard.bytes for task in tasks)
    of_size = f" of {size / 1e6:,.1f} MB" if size else ""
    log(f"data: {len(tasks):,} {plural('shard', len(tasks))}{of_size}, {finished:,} made before")
    with progress_bar("reading and tokenizing", log) as update:
        made = make_shards(tasks, data.workers, update)
    with partial_folder(directory, shared=True) as partial:
        counts = assemble(made, data, tokenizer, partial, unread_files(corpora))
        tokenizer.save(partial / "tokenizer")
        for key, of_corpus in counts.items():
            log(_summary_line(key, of_corpus))
            if held_out := of_corpus.get("split_inside_bytes"):
                share = held_out / (of_corpus["train_bytes"] + held_out)
                log(f"data: {key} is one document; it is split inside: its last {share:.1%} are the validation set")
        summary = {"vocab_size": tokenizer.vocab_size, "data": plain(data), "corpora": counts}
        (partial / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _summary_line(key: str, counts: dict[str, Any]) -> str:
    size = counts["train_bytes"] + counts["validation_bytes"]
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items())
    return (
        f"data: {key}: {counts['train_documents']:,} + {counts['validation_documents']:,} documents, "
        f"{size / 1e6:.1f} MB, "
        f"{counts['train_tokens']:,} train + {counts['validation_tokens']:,} validation tokens "
        f"({size / tokens:.2f} bytes each)" + (f"; dropped: {dropped}" if dropped else "")
    )


def open_prepared(directory: Path) -> PreparedData | None:
    """The prepared data in `directory`, None where none is complete. Errors: `DataError` where it cannot be read."""
    try:
        summary = json.loads((directory / "summary.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{directory} cannot be read ({error}); remove it and prepare again") from None
    known = {field.name for field in fields(CorpusFiles)}
    corpora = {
        key: CorpusFiles(
            train=directory / key / f"train{SUFFIX}",
            validation=directory / key / "validation.bin",
            **{name: value for name, value in counts.items() if name in known},
        )
        for key, counts in summary["corpora"].items()
    }
    return PreparedData(directory, corpora)


def _refers_to_nothing(prepared: PreparedData) -> bool:
    """Whether a shard is gone of which training would read."""
    try:
        shards = {shard for files in prepared.corpora.values() for shard in shards_of(files.train)}
    except OSError:
        return True
    return not all(shard.is_dir() for shard in shards)


def _refuse_small(settings: Settings, prepared: PreparedData) -> None:
    for name, stage in settings.stages.items():
        for key, samples in prepared.training(settings, stage).items():
            if len(samples) < stage.global_batch_size:
                raise DataError(
                    f"corpus {key} has {prepared.corpora[key].train_tokens:,} tokens to train on, which make "
                    f"{len(samples):,} samples of {settings.model.context_length:,}, and one batch of stage {name} "
                    f"needs {stage.global_batch_size:,}; give more text, or lower stages.{name}.global_batch_size"
                )


@contextmanager
def _one_line_for_a_full_disk(cache: Path) -> Iterator[None]:
    """Errors: `DataError` where writing fails; what is finished stays."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DataError(
            f"prepared data cannot be written to {cache}: {reason(error)}; "
            "free some space, or choose another folder with data.cache=..."
        ) from error
