"""Folders whose `state.json` lists each file with its size and checksum: checkpoints, and the weights of stages.

They are compared when a folder is read: a bit that the disk or a copy has changed is found, and its file named.
"""

import functools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import xxhash

from conf.run_folder import STEP, read_json, step_of, write_json

STATE = "state.json"
OWN = "state_xxh3_64"  # of the content of state.json itself; checkpoints of earlier versions have none
Checksum = int | str  # a JSON value
NO_STATE = f"{STATE} is missing"  # as of weights of earlier versions, which are read without
NO_CHECKSUMS = f"{STATE} does not have every checksum"
CHUNK_BYTES = 1 << 24  # of a file, read at a time


def shortfall(path: Path) -> str | None:
    """What is missing from a folder, in words, None where nothing is. What the files hold is not read."""
    if not (path / STATE).is_file():
        return NO_STATE
    try:
        state = read_json(path / STATE)
        sizes = state["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return f"{STATE} is empty or cut off"
    if state.get(OWN, own_checksum(state)) != own_checksum(state):
        return f"{STATE} does not match its checksum"
    if STEP.fullmatch(path.name) and state.get("step", step_of(path)) != step_of(path):
        return f"{STATE} is of step {state['step']}"
    for name, size in sizes:
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes, not {size}"
    return None


def xxh3_64(pieces: Iterable[bytes | memoryview]) -> str:
    """Checksum of a file's content as `xxhsum -H3` prints it: four times as fast as CRC-32 here, faster than a disk."""
    state = xxhash.xxh3_64()
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def with_own(state: dict[str, Any]) -> dict[str, Any]:
    """`state` as it is written, with its own checksum."""
    return {**state, OWN: own_checksum(state)}


def own_checksum(state: dict[str, Any]) -> str:
    """Checksum of the content of `state.json`, without itself."""
    content = {key: value for key, value in state.items() if key != OWN}
    return xxh3_64([json.dumps(content, sort_keys=True).encode()])


def crc32(pieces: Iterable[bytes | memoryview]) -> int:
    """Checksum of a file's content."""
    return functools.reduce(lambda checksum, piece: zlib.crc32(piece, checksum), pieces, 0)


# By its key in state.json: what is written, and what once was.
CHECKSUMS: dict[str, Callable[[Iterable[bytes | memoryview]], Checksum]] = {
    function.__name__: function for function in (xxh3_64, crc32)
}


def checksum_of(path: Path, kind: str) -> Checksum | None:
    """Checksum of a file by the function `kind` of `CHECKSUMS`, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return CHECKSUMS[kind](_read_on(file))
    except OSError:  # told to every process; one that raised alone would leave the others waiting
        return None


def checksums(path: Path) -> tuple[str, dict[str, Checksum]] | None:
    """Kind and checksum of every file that the folder lists; None where one has none."""
    state = read_json(path / STATE)
    kind = next((kind for kind in CHECKSUMS if kind in state), "")
    listed = state.get(kind)
    return (kind, listed) if isinstance(listed, dict) and listed.keys() == state["files"].keys() else None


def damage(path: Path) -> str | None:
    """What is wrong with a folder, in words, None where nothing is: this process reads every byte."""
    found = shortfall(path)
    if found is not None:
        return found
    found_checksums = checksums(path)
    if found_checksums is None:
        return NO_CHECKSUMS
    kind, listed = found_checksums
    wrong = next((name for name in sorted(listed) if checksum_of(path / name, kind) != listed[name]), None)
    return f"{wrong} does not match its checksum" if wrong else None


def listing(written: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    """What `state.json` says of files. written: bytes and `xxh3_64` of each."""
    return {
        "files": {name: size for name, (size, _) in sorted(written.items())},
        xxh3_64.__name__: {name: checksum for name, (_, checksum) in sorted(written.items())},
    }


def seal(folder: Path) -> None:
    """Write the `state.json` of a folder whose files are written. Errors: OSError where one cannot be read."""
    written = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            written[path.name] = path.stat().st_size, xxh3_64(_read_on(file))
    write_json(folder / STATE, with_own(listing(written)))


def _read_on(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK_BYTES), b"")
