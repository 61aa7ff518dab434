"""Preparation of all corpora into token files, cached in a folder named by its fingerprint.

The folder is written under a temporary name and renamed when complete: a killed preparation is never taken for a
complete one, and of two concurrent preparations the second to finish discards its own.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from conf.errors import DataError
from conf.schema import Settings, plain
from model.tokenizer import Tokenizer, load_tokenizer, open_tokenizer, train_tokenizer
from train.data.corpus import FilteredCorpus, filter_documents, sample_for_tokenizer, write_tokens
from train.data.fingerprint import fingerprint, selected_corpora

ABANDONED_SECONDS = 24 * 3600  # age at which the partial folder of another machine is removed


@dataclass(frozen=True)
class CorpusFiles:
    """Token files of one corpus. Each begins with an eos; each document ends with one."""

    train: Path
    validation: Path
    dtype: str  # numpy dtype of the token ids, little-endian
    train_documents: int
    train_bytes: int
    train_tokens: int
    validation_documents: int
    validation_bytes: int  # UTF-8 bytes of the validation text
    validation_tokens: int
    dropped: dict[str, int]  # reason -> number of documents


@dataclass(frozen=True)
class PreparedData:
    """PreparedData data, complete on disk."""

    directory: Path
    corpora: dict[str, CorpusFiles]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the token files."""
        return load_tokenizer(self.directory / "tokenizer")


def find_prepared(settings: Settings) -> PreparedData | None:
    """The prepared data of `settings`, None where it is not prepared yet.

    Errors: `DataError` as in `fingerprint`, and for a corpus smaller than one global batch.
    """
    return _open(Path(settings.data.cache) / fingerprint(settings), settings)


def prepare(settings: Settings, log: Callable[[str], None] = print) -> PreparedData:
    """Reuse the prepared data of `settings`, or prepare it, with one line to `log` for each corpus.

    Errors: `DataError` for a source that cannot be read, a corpus smaller than one global batch, and a cache folder
    that cannot be written.
    """
    name = fingerprint(settings)
    directory = Path(settings.data.cache) / name
    prepared = _open(directory, settings)
    if prepared is not None:
        tokens = ", ".join(f"{key} {files.train_tokens:,}" for key, files in prepared.corpora.items())
        log(f"data: reusing {directory} (tokens: {tokens})")
        return prepared
    with _partial(directory) as partial:
        _write(settings, partial, log)
        try:
            partial.rename(directory)
        except OSError:
            if not (directory / "summary.json").is_file():
                raise
            log(f"data: another process has prepared {directory} in the meantime; using that")
    prepared = _open(directory, settings)
    if prepared is None:
        raise DataError(f"{directory} vanished while it was prepared; try again")
    return prepared


def _write(settings: Settings, partial: Path, log: Callable[[str], None]) -> None:
    """Write everything into the folder `partial`; `summary.json`, which marks it complete, last."""
    data = settings.data
    filtered: dict[str, FilteredCorpus] = {}
    for key, corpus in selected_corpora(settings).items():
        filtered[key] = filter_documents(key, corpus, data, partial / f"{key}.filtered.jsonl")
    started = time.perf_counter()
    tokenizer = _tokenizer(settings, filtered)
    tokenizer.save(partial / "tokenizer")
    log(f"data: tokenizer with {tokenizer.vocab_size:,} pieces in {time.perf_counter() - started:.0f} s")
    dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    corpora = {}
    for key, one in filtered.items():
        parts = write_tokens(key, one, tokenizer, dtype, partial / key)
        one.file.unlink()
        counts = {f"{split}_{name}": count for split, part in parts.items() for name, count in asdict(part).items()}
        corpora[key] = {"dtype": dtype, **counts, "dropped": dict(sorted(one.dropped.items()))}
        log(_summary_line(key, corpora[key]))
    summary = {"vocab_size": tokenizer.vocab_size, "data": plain(data), "corpora": corpora}
    (partial / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _tokenizer(settings: Settings, filtered: dict[str, FilteredCorpus]) -> Tokenizer:
    """The tokenizer at data.tokenizer.path, or one trained on a sample of the filtered corpora."""
    config = settings.data.tokenizer
    if config.path is not None:
        return open_tokenizer(config.kind, config.path, settings.model.vocab_size)
    share = config.train_bytes // len(filtered)
    texts = (text for one in filtered.values() for text in sample_for_tokenizer(one, share))
    return train_tokenizer(config.kind, texts, settings.model.vocab_size)


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


def _open(directory: Path, settings: Settings) -> PreparedData | None:
    try:
        summary = json.loads((directory / "summary.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{directory} cannot be read ({error}); remove it and prepare again") from None
    known = {field.name for field in fields(CorpusFiles)}
    corpora = {
        key: CorpusFiles(
            train=directory / key / "train.bin",
            validation=directory / key / "validation.bin",
            **{name: value for name, value in counts.items() if name in known},
        )
        for key, counts in summary["corpora"].items()
    }
    _refuse_small(settings, corpora)
    return PreparedData(directory, corpora)


def _refuse_small(settings: Settings, corpora: dict[str, CorpusFiles]) -> None:
    for name, stage in settings.stages.items():
        needed = stage.global_batch_size * settings.model.context_length + 1
        tokens = corpora[stage.corpus].train_tokens
        if tokens < needed:
            raise DataError(
                f"corpus {stage.corpus} has {tokens:,} tokens to train on, and one batch of stage {name} needs "
                f"{needed:,} (global_batch_size {stage.global_batch_size} x context_length "
                f"{settings.model.context_length} + 1); give more text, or lower stages.{name}.global_batch_size"
            )


@contextmanager
def _partial(directory: Path) -> Iterator[Path]:
    """A temporary folder beside `directory`, removed on exit unless renamed. Errors: `DataError` if writing fails."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(directory)
        partial = directory.with_name(f"{directory.name}.partial.{socket.gethostname()}.{os.getpid()}")
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"prepared data cannot be written to {directory.parent}: {error.strerror or error}; "
            "free some space, or choose another folder with data.cache=..."
        ) from error


def _remove_abandoned(directory: Path) -> None:
    """Remove partial folders of killed preparations: of this machine's dead processes, of others after a day."""
    for partial in directory.parent.glob(f"{directory.name}.partial.*"):
        host, _, pid = partial.name.partition(".partial.")[2].rpartition(".")
        if host == socket.gethostname():
            abandoned = int(pid) == os.getpid() or not _is_running(int(pid))
        else:
            abandoned = time.time() - partial.stat().st_mtime > ABANDONED_SECONDS
        if abandoned:
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
