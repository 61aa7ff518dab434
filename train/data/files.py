"""`data=files`: the files of a corpus, and their division into shards that are prepared independently."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pyarrow.parquet

from conf.choices import Source
from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.documents import EXTENSIONS
from train.data.dropped import Dropped
from train.data.formats import PROSE_EXTENSIONS, READERS, Part, kind_of
from train.data.storage import FileState, find, open_binary, state_of, without_compression

SHARD_BYTES = 64 << 20  # of input a shard; a file that is compressed, or no table, is never divided
# In a folder of code, JSON and CSV are rarely tables of documents.
FOLDER_KINDS: dict[bool, tuple[str, ...]] = {True: (".jsonl", ".ndjson", ".parquet", ".arrow", ".tar", "text")}
FOLDER_KINDS[False] = (*FOLDER_KINDS[True], ".csv", ".tsv")
DATASETS_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")  # beside the Arrow files of `datasets`


@dataclass(frozen=True)
class FileShard:
    """Parts of files that are prepared together, with the state in which each file was found."""

    parts: tuple[Part, ...]
    states: tuple[FileState, ...]
    bytes: int


def list_files(key: str, corpus: CorpusConfig, dropped: Dropped | None = None) -> list[str]:
    """The files of corpus `key`, sorted within each of its paths; `dropped` gets those of a folder that are not read.

    A folder is searched recursively for tables and archives and, in a code corpus, source files of the six languages,
    otherwise text files. Errors: `DataError` for a path that does not exist, a glob without a match, a folder without
    a file that is read, and a named file of an unknown kind.
    """
    setting = f"data.corpora.{key}.paths"
    files: list[str] = []
    for name in corpus.paths:
        try:
            what, found = find(name)
        except OSError as error:
            raise DataError(f"{setting}: {name} cannot be reached: {error}") from None
        if what == "folder":
            kept = [file for file in found if _belongs(file, corpus)]
            if dropped is not None:
                for other in sorted(set(found) - set(kept)):
                    if not other.endswith(DATASETS_FILES):
                        dropped.add("unknown file type", other)
            if not kept:
                raise DataError(f"{setting}: the folder {name} holds no file ending in {', '.join(_endings(corpus))}")
            files += kept
            continue
        if not found:
            raise DataError(f"{setting}: {name} {'matches no file' if what else 'does not exist'}")
        for file in found:
            if kind_of(file, corpus) is None:
                known = ", ".join([*READERS, ".tar", *PROSE_EXTENSIONS, *EXTENSIONS])
                raise DataError(
                    f"{setting}: {file} is of a kind that is not read; known are {known}, each also .gz, .zst, .xz or "
                    f".bz2; where it is text, add its ending to data.corpora.{key}.extensions"
                )
        files += found
    return list(dict.fromkeys(files))


def unread_files(corpora: dict[str, CorpusConfig]) -> dict[str, Dropped]:
    """Corpus -> the files of its folders that are of no known kind. Errors: `DataError` as in `list_files`."""
    unread = {key: Dropped() for key, corpus in corpora.items() if corpus.source is Source.files}
    for key, dropped in unread.items():
        list_files(key, corpora[key], dropped)
    return unread


def file_states(key: str, corpus: CorpusConfig) -> list[FileState]:
    """Each file with its size and time of change. Errors: `DataError` as in `list_files`."""
    try:
        return [state_of(name) for name in list_files(key, corpus)]
    except OSError as error:
        raise DataError(f"data.corpora.{key}.paths: a file vanished while the folder was listed: {error}") from None


def file_shards(key: str, corpus: CorpusConfig) -> Iterator[FileShard]:
    """The files in shards of about `SHARD_BYTES`, in order.

    Small files are gathered until the hash of a name ends the shard, so that a new or changed file moves no other
    shard's border but its neighbours'.
    """
    gathered: list[FileState] = []
    for state in file_states(key, corpus):
        parts = _divide(state, corpus)
        if len(parts) == 1 and state.bytes < SHARD_BYTES:
            gathered.append(state)
            chance = int.from_bytes(hashlib.sha256(state.name.encode()).digest()[:8], "big") / 2**64
            if chance < state.bytes / SHARD_BYTES or sum(one.bytes for one in gathered) > 2 * SHARD_BYTES:
                yield _gather(gathered)
                gathered = []
            continue
        if gathered:
            yield _gather(gathered)
            gathered = []
        yield from (FileShard((part,), (state,), -(-state.bytes // len(parts))) for part in parts)
    if gathered:
        yield _gather(gathered)


def _gather(states: list[FileState]) -> FileShard:
    return FileShard(tuple(Part(state.name) for state in states), tuple(states), sum(state.bytes for state in states))


def _divide(state: FileState, corpus: CorpusConfig) -> list[Part]:
    """Parts of one file of about `SHARD_BYTES` each."""
    kind, compression = kind_of(state.name, corpus), without_compression(state.name)[1]
    if state.bytes <= SHARD_BYTES or compression or kind not in (".jsonl", ".ndjson", ".parquet"):
        return [Part(state.name)]
    if kind != ".parquet":
        borders = [*range(0, state.bytes, SHARD_BYTES), state.bytes]
        return [Part(state.name, start, stop) for start, stop in pairwise(borders)]
    try:
        with open_binary(state.name) as file, pyarrow.parquet.ParquetFile(file) as table:
            groups = table.num_row_groups
    except (OSError, pyarrow.ArrowException):
        return [Part(state.name)]  # its reader names what is wrong with it
    step = max(1, groups * SHARD_BYTES // state.bytes)
    return [Part(state.name, start, min(start + step, groups)) for start in range(0, groups, step)] or [
        Part(state.name)
    ]


def _belongs(name: str, corpus: CorpusConfig) -> bool:
    """Whether a file that was found in a folder is read."""
    kind = kind_of(name, corpus)
    if kind == "text":
        return without_compression(name)[0].lower().endswith(_text_endings(corpus))
    return kind in FOLDER_KINDS[corpus.code]


def _text_endings(corpus: CorpusConfig) -> tuple[str, ...]:
    return (*(EXTENSIONS if corpus.code else PROSE_EXTENSIONS), *(one.lower() for one in corpus.extensions))


def _endings(corpus: CorpusConfig) -> tuple[str, ...]:
    return (*(kind for kind in FOLDER_KINDS[corpus.code] if kind != "text"), *_text_endings(corpus))
