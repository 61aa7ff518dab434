"""The name of a prepared-data folder: a hash of everything that determines its content."""

import hashlib
import json
from typing import Any

from conf.choices import READ_BY_PATH, Source
from conf.errors import DataError
from conf.mixture import corpora_of
from conf.schema import CorpusConfig, Settings, plain
from train.data.files import file_states
from train.data.git_history import borders_of, repository_states
from train.data.local import installed_packages
from train.data.shard import decontamination_inputs
from train.data.tokenizer import corpora_with_source, given_folder, given_tokenizer, has_source

FORMAT = 7  # increase when the same settings and sources give different files


def selected_corpora(settings: Settings) -> dict[str, CorpusConfig]:
    """The corpora to prepare, by key: those that a stage reads.

    Errors: `DataError` for a stage whose corpus is missing from data.corpora or has no source.
    """
    read: set[str] = set()
    for name, stage in settings.stages.items():
        for key in corpora_of(stage):
            if key not in settings.data.corpora:
                known = ", ".join(settings.data.corpora) or "none"
                raise DataError(f"stage {name} trains on corpus {key}, which data.corpora does not have ({known})")
            corpus = settings.data.corpora[key]
            if not has_source(corpus):
                missing = "paths=[...]" if corpus.source in READ_BY_PATH else "name=..."
                raise DataError(
                    f"stage {name} trains on corpus {key}, which has no documents yet; "
                    f"say where they are with data.corpora.{key}.{missing}"
                )
            read.add(key)
    return {key: corpus for key, corpus in settings.data.corpora.items() if key in read}


def fingerprint(settings: Settings) -> str:
    """16 hexadecimal digits that depend on the sources, the data settings and the tokenizer, and on nothing else.

    Files count by path, size and time of change; repositories by path and commit; `data=local` by the installed
    packages and their versions. Where the tokenizer is trained, the corpora it is trained on count too. The first 8
    digits are those of `settings_fingerprint`.

    Errors: `DataError` for files that do not exist and for a stage without a corpus; `ConfigError` for a tokenizer
    that is not found.
    """
    corpora = _corpora(settings)
    files = {key: file_states(key, corpus) for key, corpus in corpora.items() if corpus.source is Source.files}
    commits = {key: repository_states(key, corpus) for key, corpus in corpora.items() if corpus.source is Source.git}
    local = any(corpus.source is Source.local for corpus in corpora.values())
    sources = {
        "files": {key: [[one.name, one.bytes, one.changed] for one in found] for key, found in files.items()},
        "commits": {key: [[one.name, one.changed] for one in found] for key, found in commits.items()},
        "borders": {
            one.name: found for key, ones in commits.items() for one in ones if (found := borders_of(one.name, key))
        },
        "machine": installed_packages() if local else None,
    }
    return settings_fingerprint(settings) + _digits(sources)


def settings_fingerprint(settings: Settings) -> str:
    """8 hexadecimal digits that depend on the data settings, a given tokenizer and `FORMAT`, not on the sources' state.

    Errors: `DataError` for a stage without a corpus; `ConfigError` for a tokenizer that is not found.
    """
    data, selected = settings.data, selected_corpora(settings)
    inputs = {
        "format": FORMAT,
        "vocab_size": settings.model.vocab_size,
        "on_error": data.on_error.value,
        "validation": [data.validation_fraction, data.validation_bytes],
        "filters": plain(data.filters),
        "dedup": [data.dedup.value, data.dedup_across_corpora],
        "redact": sorted(data.redact),
        "conversations": settings.model.context_length if any(one.conversations for one in selected.values()) else None,
        "decontaminate": decontamination_inputs(data),
        "tokenizer": given_tokenizer(settings),
        "selected": list(selected),
        "corpora": [[key, plain(corpus)] for key, corpus in _corpora(settings).items()],
    }
    return _digits(inputs)


def _corpora(settings: Settings) -> dict[str, CorpusConfig]:
    """The corpora that are read: those that a stage trains on, or all where the tokenizer is trained on them."""
    selected = selected_corpora(settings)
    return corpora_with_source(settings.data) if given_folder(settings) is None else selected


def _digits(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
