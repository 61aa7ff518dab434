"""The name of a prepared-data folder: a hash of everything that determines its content."""

import hashlib
import json
from importlib.metadata import version

from conf.choices import Source
from conf.errors import DataError
from conf.schema import CorpusConfig, Settings, TokenizerConfig, plain
from model.tokenizer import tokenizer_folder
from model.tokenizer.gpt2 import FILES
from model.tokenizer.sentencepiece import MODEL_FILE
from train.data.files import list_files
from train.data.local import installed_packages

FORMAT = 2  # increase when the same settings and sources give different files


def selected_corpora(settings: Settings) -> dict[str, CorpusConfig]:
    """The corpora to prepare, by key: those with a source, which must include the corpus of every stage.

    Errors: `DataError` for a stage whose corpus is missing from data.corpora or has no source.
    """
    corpora = {key: corpus for key, corpus in settings.data.corpora.items() if _has_source(corpus)}
    for name, stage in settings.stages.items():
        if stage.corpus not in settings.data.corpora:
            known = ", ".join(settings.data.corpora) or "none"
            raise DataError(f"stage {name} trains on corpus {stage.corpus}, which data.corpora does not have ({known})")
        if stage.corpus not in corpora:
            missing = "paths=[...]" if settings.data.corpora[stage.corpus].source is Source.files else "name=..."
            raise DataError(
                f"stage {name} trains on corpus {stage.corpus}, which has no documents yet; "
                f"say where they are with data.corpora.{stage.corpus}.{missing}"
            )
    return corpora


def fingerprint(settings: Settings) -> str:
    """16 hexadecimal digits that depend on the sources, the data settings and the tokenizer, and on nothing else.

    Files count by path, size and time of change; `data=local` by the installed packages and their versions.

    Errors: `DataError` for files that do not exist and for a stage without a corpus; `ConfigError` for a tokenizer
    that is not found.
    """
    data = settings.data
    corpora = selected_corpora(settings)
    inputs: dict[str, object] = {
        "format": FORMAT,
        "vocab_size": settings.model.vocab_size,
        "on_error": data.on_error.value,
        "validation": [data.validation_fraction, data.validation_bytes],
        "filters": plain(data.filters),
        "tokenizer": _tokenizer_inputs(data.tokenizer),
        "corpora": [[key, plain(corpus)] for key, corpus in corpora.items()],
        "files": {key: _file_states(key, corpus) for key, corpus in corpora.items() if corpus.source is Source.files},
    }
    if any(corpus.source is Source.local for corpus in corpora.values()):
        inputs["machine"] = installed_packages()
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _tokenizer_inputs(config: TokenizerConfig) -> dict[str, object]:
    """What determines the token ids: the content of a given tokenizer's files, or the settings to train one."""
    if config.path is None:
        return {**plain(config), "sentencepiece": version("sentencepiece")}
    folder = tokenizer_folder(config.path)
    files = {name: folder / name for name in (*FILES, MODEL_FILE)}
    content = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    return {"kind": config.kind, "tokenizers": version("tokenizers"), "files": content}


def _has_source(corpus: CorpusConfig) -> bool:
    return bool(corpus.paths) if corpus.source is Source.files else corpus.name not in ("", "???")


def _file_states(key: str, corpus: CorpusConfig) -> list[tuple[str, int, int]]:
    """Path, size in bytes and time of change in nanoseconds of each file."""
    states = ((path, path.stat()) for path in list_files(key, corpus))
    return [(str(path.resolve()), state.st_size, state.st_mtime_ns) for path, state in states]
