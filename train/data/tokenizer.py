"""The tokenizer of a run's data: a finished one, that of its parent, or one trained on a sample of all its corpora.

It lies in the cache under a hash of what determined it, and is known to the shards by the hash of its files.
"""

import bisect
import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conf.chat_templates import read_template
from conf.choices import READ_BY_PATH, Objective
from conf.errors import ConfigError, DataError
from conf.partial_folder import partial_folder
from conf.schema import CorpusConfig, DataConfig, Settings, plain
from conf.sources import tokenizer_source
from model.tokenizer import FILES, has_tokenizer, load_tokenizer, open_tokenizer, tokenizer_folder, train_tokenizer
from model.tokenizer.codegen2 import INFILLING
from train.data.dropped import Dropped
from train.data.filters import is_held_out
from train.data.infill import require_infilling
from train.data.parents import refuse_other_tokenizers
from train.data.shard import Shard, kept_documents, list_shards, shard_name

READING = 2  # increase when the files of a finished tokenizer are read otherwise, and may give other ids
SAMPLED_FROM = 16  # bytes that are read for each byte of the sample, at most; whole shards


def prepare_tokenizer(settings: Settings) -> Path:
    """The folder in the cache with the run's tokenizer, which is trained where there is none.

    Errors: `DataError` for corpora that cannot be read, `ConfigError` for a tokenizer that cannot serve the model, the
    objective or the weights that a stage starts from.
    """
    config, rows, given = settings.data.tokenizer, settings.model.vocab_size, given_folder(settings)
    inputs: dict[str, Any] = {"vocab_size": rows, **_ids_of(settings, given)}
    shards: dict[str, list[Shard]] = {}
    if given is None:
        corpora = corpora_with_source(settings.data)
        share = config.train_bytes // len(corpora)
        shards = {key: _sampled(list_shards(key, corpus), share) for key, corpus in corpora.items()}
        inputs["validation_fraction"] = settings.data.validation_fraction
        inputs["shards"] = [
            [shard_name(shard, corpora[key], settings.data, "") for shard in sampled] for key, sampled in shards.items()
        ]
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(settings.data.cache) / "tokenizers" / name
    if not folder.is_dir():
        if config.path is not None:
            tokenizer = open_tokenizer(config.kind, config.path, rows)
        elif given is not None:
            tokenizer = load_tokenizer(given)
        else:
            texts = [
                text for key, sampled in shards.items() for text in _sample(sampled, corpora[key], settings.data, share)
            ]
            if not any(map(str.strip, texts)):
                read = (f"data.corpora.{key} ({', '.join(one.paths) or one.name})" for key, one in corpora.items())
                raise DataError(f"there is no text to train the tokenizer on in {', '.join(read)}; give other files")
            tokenizer = train_tokenizer(config.kind, texts, rows - len(config.special_tokens), _special(settings))
        tokenizer = tokenizer.with_special(config.special_tokens, read_template(config.chat_template))
        if tokenizer.vocab_size > rows:
            raise ConfigError(
                f"model.vocab_size={rows} has no room for the tokenizer's {tokenizer.vocab_size} ids, with its "
                f"data.tokenizer.special_tokens; use at least {tokenizer.vocab_size}"
            )
        with partial_folder(folder, shared=True) as partial:
            tokenizer.save(partial)
    if settings.data.objective is Objective.infill:
        require_infilling(load_tokenizer(folder))
    refuse_other_tokenizers(settings, folder)
    return folder


def given_folder(settings: Settings) -> Path | None:
    """The files of the finished tokenizer that data.tokenizer.path or the first stage's parent brings; None: none does.

    Errors: `ConfigError` where one of these is not found.
    """
    asked, source = tokenizer_source(settings) or ("", None)
    if source is None:
        return None
    folder = tokenizer_folder(source, asked)
    return folder if settings.data.tokenizer.path is not None or has_tokenizer(folder) else None


def origin(settings: Settings) -> str:
    """Where the tokenizer is taken from, for the log; empty for one that is trained."""
    given = given_folder(settings)
    return "" if given is None else f" of {given}"


def given_tokenizer(settings: Settings) -> dict[str, Any]:
    """What determines the ids: the content of a finished tokenizer's files, or the settings to train one."""
    return _ids_of(settings, given_folder(settings))


def _ids_of(settings: Settings, given: Path | None) -> dict[str, Any]:
    config = settings.data.tokenizer
    added = {"special_tokens": config.special_tokens, "chat_template": read_template(config.chat_template)}
    if given is None:
        return {**plain(config), **added, "special": _special(settings), "sentencepiece": version("sentencepiece")}
    reading = [READING, version("tokenizers")]
    kind = None if config.path is None else config.kind  # a parent's is taken as it is
    return {"kind": kind, **added, "reading": reading, "files": _files(given)}


def _special(settings: Settings) -> list[str]:
    """The special tokens, beside eos, that a tokenizer is trained with; those that settings name come after its ids."""
    return list(INFILLING) if settings.data.objective is Objective.infill else []


def tokenizer_hash(folder: Path) -> str:
    """A hash of a saved tokenizer's files."""
    return hashlib.sha256(json.dumps(_files(folder), sort_keys=True).encode()).hexdigest()[:24]


def corpora_with_source(data: DataConfig) -> dict[str, CorpusConfig]:
    """The corpora that say where their documents are."""
    return {key: corpus for key, corpus in data.corpora.items() if has_source(corpus)}


def has_source(corpus: CorpusConfig) -> bool:
    """Whether the corpus says where its documents are."""
    return bool(corpus.paths) if corpus.source in READ_BY_PATH else corpus.name not in ("", "???")


def _files(folder: Path) -> dict[str, str]:
    paths = {name: folder / name for name in FILES}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if path.is_file()}


def _sampled(shards: list[Shard], share: int) -> list[Shard]:
    """The shards that are read for the sample: all, or of many a choice spread over the corpus."""
    if not any(shard.bytes for shard in shards):  # local, and a hub's: the first of each group
        return [shard for at, shard in enumerate(shards) if shard.group not in {one.group for one in shards[:at]}]
    step = max(1, sum(shard.bytes for shard in shards) // (SAMPLED_FROM * max(1, share)))
    return shards[::step]


def _sample(shards: list[Shard], corpus: CorpusConfig, data: DataConfig, share: int) -> Iterator[str]:
    """Training documents chosen by their hash, at most `share` bytes of text; they alone are in memory.

    Errors: `DataError` as in `kept_documents`.
    """
    chosen: list[tuple[str, str, int]] = []  # rank, text, bytes; the smallest ranks so far
    total = 0
    for shard in shards:
        for kept in kept_documents(shard, corpus, data, Dropped(data.on_error)):
            if is_held_out(kept.sha256, data.validation_fraction):
                continue
            rank = kept.sha256[8:16].hex()  # not the digits that decide the split
            if total < share or rank < chosen[-1][0]:
                size = len(kept.text.encode())
                bisect.insort(chosen, (rank, kept.text, size))
                total += size
                while total - chosen[-1][2] >= share:
                    total -= chosen.pop()[2]
    left = share
    for _, text, size in chosen:
        yield text if size <= left else text.encode()[:left].decode(errors="ignore")
        left -= size
