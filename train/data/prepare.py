"""From corpora to files of tokens, once: prepared data is a folder named by a fingerprint, used again as it is.

It is written under another name and renamed when it is whole, so a preparation that was killed leaves nothing that
looks like one, and of two at the same time the slower discards its own.
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
from train.data.corpus import Gathered, gather, training_sample, write_tokens
from train.data.fingerprint import fingerprint, selected_corpora

ABANDONED_SECONDS = 24 * 3600  # a partial folder of another machine that has not changed for this long


@dataclass(frozen=True)
class CorpusFiles:
    """Token files of one corpus. Each begins with an eos; each document ends with one."""

    train: Path
    validation: Path
    dtype: str  # numpy's name of the tokens' type, little-endian
    train_documents: int
    train_bytes: int
    train_tokens: int
    validation_documents: int
    validation_bytes: int  # UTF-8 bytes of the text that validation tokens stand for
    validation_tokens: int
    dropped: dict[str, int]  # reason -> documents


@dataclass(frozen=True)
class Prepared:
    """Prepared data, complete on disk."""

    directory: Path
    corpora: dict[str, CorpusFiles]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of these tokens."""
        return load_tokenizer(self.directory / "tokenizer")


def find(settings: Settings) -> Prepared | None:
    """The prepared data of `settings`, None where it has yet to be made.

    Errors: `DataError` as in `fingerprint`, and for a corpus smaller than one batch of a stage.
    """
    return _open(Path(settings.data.cache) / fingerprint(settings), settings)


def prepare(settings: Settings, log: Callable[[str], None] = print) -> Prepared:
    """Find the prepared data of `settings` or make it, with a line to `say` for each corpus.

    Errors: `DataError` for what cannot be read, a corpus that comes to nothing or to less than one batch, and a cache
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
        _make(settings, partial, log)
        try:
            partial.rename(directory)
        except OSError:
            if not (directory / "summary.json").is_file():
                raise
            log(f"data: another process has prepared {directory} meanwhile; using that")
    prepared = _open(directory, settings)
    if prepared is None:
        raise DataError(f"{directory} vanished while it was prepared; try again")
    return prepared


def _make(settings: Settings, partial: Path, log: Callable[[str], None]) -> None:
    """Fill the folder `partial`; its summary comes last."""
    data = settings.data
    gathered: dict[str, Gathered] = {}
    for key, corpus in selected_corpora(settings).items():
        gathered[key] = gather(key, corpus, data, partial / f"{key}.waiting")
    started = time.perf_counter()
    tokenizer = _tokenizer(settings, gathered)
    tokenizer.save(partial / "tokenizer")
    log(f"data: tokenizer with {tokenizer.vocab_size:,} pieces in {time.perf_counter() - started:.0f} s")
    dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    corpora = {}
    for key, one in gathered.items():
        parts = write_tokens(key, one, tokenizer, dtype, partial / key)
        one.file.unlink()
        counts = {f"{split}_{name}": count for split, part in parts.items() for name, count in asdict(part).items()}
        corpora[key] = {"dtype": dtype, **counts, "dropped": dict(sorted(one.dropped.items()))}
        log(_line(key, corpora[key]))
    summary = {"vocab_size": tokenizer.vocab_size, "data": plain(data), "corpora": corpora}
    (partial / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _tokenizer(settings: Settings, gathered: dict[str, Gathered]) -> Tokenizer:
    """The finished tokenizer that the settings name, or one trained on what was gathered."""
    wanted = settings.data.tokenizer
    if wanted.path is not None:
        return open_tokenizer(wanted.kind, wanted.path, settings.model.vocab_size)
    share = wanted.train_bytes // len(gathered)
    texts = (text for one in gathered.values() for text in training_sample(one, share))
    return train_tokenizer(wanted.kind, texts, settings.model.vocab_size)


def _line(key: str, counts: dict[str, Any]) -> str:
    size = counts["train_bytes"] + counts["validation_bytes"]
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items())
    return (
        f"data: {key}: {counts['train_documents']:,} + {counts['validation_documents']:,} documents, "
        f"{size / 1e6:.1f} MB, "
        f"{counts['train_tokens']:,} train + {counts['validation_tokens']:,} validation tokens "
        f"({size / tokens:.2f} bytes each)" + (f"; dropped: {dropped}" if dropped else "")
    )


def _open(directory: Path, settings: Settings) -> Prepared | None:
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
    return Prepared(directory, corpora)


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
    """A folder beside `directory` to work in, removed afterwards unless renamed. Errors of writing as `DataError`."""
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
    """Remove what killed preparations of this data left: this machine's dead processes, others' after a day."""
    for partial in directory.parent.glob(f"{directory.name}.partial.*"):
        host, _, process = partial.name.partition(".partial.")[2].rpartition(".")
        if host == socket.gethostname():
            abandoned = int(process) == os.getpid() or not _is_running(int(process))
        else:
            abandoned = time.time() - partial.stat().st_mtime > ABANDONED_SECONDS
        if abandoned:
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
