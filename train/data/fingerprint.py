"""The name of prepared data: a hash of everything that decides what is in it."""

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
from train.data.local import inventory

FORMAT = 2  # counts changes in what the same settings and sources give


def selected_corpora(settings: Settings) -> dict[str, CorpusConfig]:
    """The corpora that say where their documents are; those of all stages are among them.

    Errors: `DataError` for a stage whose corpus is missing or says nothing.
    """
    corpora = {key: corpus for key, corpus in settings.data.corpora.items() if _says_where(corpus)}
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
    """16 hexadecimal digits. The same for the same data, tokenizer and sources, whatever else is trained with them.

    Errors: `DataError` for files that do not exist, or a stage without a corpus; `ConfigError` for a tokenizer that
    cannot be found.
    """
    data = settings.data
    corpora = selected_corpora(settings)
    decides: dict[str, object] = {
        "format": FORMAT,
        "vocab_size": settings.model.vocab_size,
        "on_error": data.on_error.value,
        "validation": [data.validation_fraction, data.validation_bytes],
        "filters": plain(data.filters),
        "tokenizer": _tokenizer(data.tokenizer),
        "corpora": [[key, plain(corpus)] for key, corpus in corpora.items()],
        "files": {key: _states(key, corpus) for key, corpus in corpora.items() if corpus.source is Source.files},
    }
    if any(corpus.source is Source.local for corpus in corpora.values()):
        decides["machine"] = inventory()
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _tokenizer(wanted: TokenizerConfig) -> dict[str, object]:
    """What decides the ids: the content of a finished tokenizer's files, or how one is trained."""
    if wanted.path is None:
        return {**plain(wanted), "sentencepiece": version("sentencepiece")}
    folder = tokenizer_folder(wanted.path)
    files = {name: folder / name for name in (*FILES, MODEL_FILE)}
    content = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    return {"kind": wanted.kind, "tokenizers": version("tokenizers"), "files": content}


def _says_where(corpus: CorpusConfig) -> bool:
    return bool(corpus.paths) if corpus.source is Source.files else corpus.name not in ("", "???")


def _states(key: str, corpus: CorpusConfig) -> list[tuple[str, int, int]]:
    """Path, size in bytes and time of change in nanoseconds of each file."""
    states = ((path, path.stat()) for path in list_files(key, corpus))
    return [(str(path.resolve()), state.st_size, state.st_mtime_ns) for path, state in states]
