"""Checkpoints: written atomically, verified by checksum, independent of the layout.

A checkpoint is a folder `step_<n>` that belongs to no layout: `weights/`, `exp_avg/` and `exp_avg_sq/` hold whole fp32
tensors, a file a layer, and are the same whoever wrote them. `state.json` holds the rest, and lists each file with its
size and its CRC-32, which are compared when it is read: one flipped byte is found, and the checkpoint before is taken.
It is written under another name and renamed when every process is done, so a killed save leaves nothing that looks like
one. `weights/` beside the checkpoints is the stage's result.
"""

import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from conf.errors import ConfigError, NodeError, node_name
from conf.run_folder import read_json, write_json
from conf.schema import ModelConfig
from model.weights import Weights, layer_file, open_layers, write_layer
from parallel.engine import Engine
from parallel.full_state import MOMENTS, WEIGHTS
from parallel.mesh import ProcessMesh

CHUNK_BYTES = 1 << 24  # of a file, read at a time


def save_checkpoint(
    engine: Engine, folder: Path, state: dict[str, Any], keep: int, keep_step: int | None = None
) -> Path:
    """Write checkpoint `state["step"]` below `folder`, then drop all but the newest `keep` and step `keep_step`.

    Every process calls it. Later steps are dropped too: the run has gone back behind them. Errors: `NodeError`, on
    every process, where a file cannot be written or read back; the checkpoints before stay.
    """
    name, mesh = f"step_{state['step']:08d}", engine.mesh
    with _in_place_of(folder / name, mesh) as path:
        for what in (WEIGHTS, *MOMENTS):
            _write_layers(engine, path / what, what)
        written = [file for file in sorted(path.rglob("*")) if file.is_file()] if mesh.is_main else []
        sizes = mesh.broadcast_object({str(file.relative_to(path)): file.stat().st_size for file in written})
        checksums = _checksums(path, sizes, mesh)
        unread = sorted(file for file, checksum in checksums.items() if checksum is None)
        if unread:
            raise NodeError(f"{path / unread[0]} was just written and cannot be read back")
        whole = {**state, "optimizer": engine.trainer_state, "files": sizes, "crc32": checksums}
        file = path / "state.json"
        _raise_together(_problem(file, lambda: write_json(file, whole)) if mesh.is_main else None, mesh)
    if mesh.is_main:
        earlier = [path for path in _steps(folder) if path.name <= name]
        kept = [*earlier[-keep:], *(path for path in earlier if path.name == f"step_{keep_step or 0:08d}")]
        for path in _steps(folder):
            if path not in kept:
                shutil.rmtree(path)
    mesh.barrier()
    return folder / name


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints below `folder`, oldest first."""
    return [path for path in _steps(folder) if is_complete(path)]


def is_complete(path: Path) -> bool:
    """Whether every file that the checkpoint lists is there in its full size. What the files hold is not read."""
    return _shortfall(path) is None


def newest_checkpoint(folder: Path, mesh: ProcessMesh, log: Callable[[str], None]) -> Path | None:
    """The newest checkpoint below `folder` whose every byte is as it was written. Every process calls it.

    A damaged one is reported through `log`, one line with the file, and the one before it is taken.
    Errors: `ConfigError` where there are checkpoints and none is whole.
    """
    found = mesh.broadcast_object(_steps(folder) if mesh.is_main else None)
    damage = None
    for path in reversed(found):
        damage = damage_of(path, mesh)
        if damage is None:
            return Path(path)
        log(f"warning: {path} is damaged: {damage}; trying the checkpoint before it")
    if damage is not None:
        raise ConfigError(
            f"{folder} holds no undamaged checkpoint (of {path.name}, {damage}); bring one back from a copy, or delete "
            "the folder to begin the stage again"
        )
    return None


def damage_of(path: Path, mesh: ProcessMesh) -> str | None:
    """A description of what is wrong with a checkpoint, None where nothing is. The processes share the reading."""
    shortfall: str | None = mesh.broadcast_object(_shortfall(path) if mesh.is_main else None)
    if shortfall is not None:
        return shortfall
    expected = mesh.broadcast_object(read_json(path / "state.json")["crc32"] if mesh.is_main else None)
    found = _checksums(path, expected, mesh)
    wrong = sorted(file for file, checksum in expected.items() if found[file] != checksum)
    return f"{wrong[0]} does not match its checksum" if wrong else None


def _steps(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("step_*")) if path.suffix != ".partial"]


def _shortfall(path: Path) -> str | None:
    if not (path / "state.json").is_file():
        return "state.json is missing"
    for name, size in read_json(path / "state.json")["files"].items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes, not {size}"
    return None


def _checksums(folder: Path, names: Iterable[str], mesh: ProcessMesh) -> dict[str, int | None]:
    """CRC-32 of each file below `folder`, None where it cannot be read: each process reads its share of them."""
    mine = {name: _crc32(folder / name) for name in sorted(names)[mesh.rank :: mesh.size]}
    return {name: checksum for part in mesh.all_gather_object(mine) for name, checksum in part.items()}


def _crc32(path: Path) -> int | None:
    checksum = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:  # told to every process; one that raised alone would leave the others waiting
        return None
    return checksum


def save_weights(engine: Engine, folder: Path) -> None:
    """Write the model's whole weights below `folder`, one `layer_<i>.safetensors` a layer. Every process calls it.

    Errors: as `save_checkpoint`.
    """
    with _in_place_of(folder, engine.mesh) as path:
        _write_layers(engine, path, WEIGHTS)


@contextmanager
def _in_place_of(folder: Path, mesh: ProcessMesh) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` when everyone is done, and is gone where someone cannot write."""
    path = folder.with_name(f"{folder.name}.partial")
    if mesh.is_main:
        shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    except NodeError:
        if mesh.is_main:
            shutil.rmtree(path, ignore_errors=True)
        raise
    if mesh.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        path.rename(folder)
    mesh.barrier()


def _write_layers(engine: Engine, folder: Path, what: str) -> None:
    """Write `what` whole, a file a layer, into `folder`, which the main process makes. Every process calls it.

    A process that cannot write goes on without, for the others wait for its part of every tensor.
    """
    problem = _problem(folder, lambda: folder.mkdir(parents=True)) if engine.mesh.is_main else None
    engine.mesh.barrier()
    for index, named in groupby(engine.full_state(what), key=lambda pair: int(pair[0].partition(".")[0])):
        layer = {name.partition(".")[2]: value for name, value in named if value is not None}
        if layer and problem is None:
            problem = _problem(folder / layer_file(index), partial(write_layer, folder, index, layer))
    _raise_together(problem, engine.mesh)


def _raise_together(problem: str | None, mesh: ProcessMesh) -> None:
    """`NodeError` on every process where one has a problem: one that raised alone would leave the others waiting."""
    problems = [each for each in mesh.all_gather_object(problem) if each is not None]
    if problems:
        raise NodeError(problems[0])


def _problem(path: Path, write: Callable[[], None]) -> str | None:
    """The reason why `write` failed, None where it succeeded."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        return f"{node_name()}: {path} cannot be written ({error})"
    return None


def load_checkpoint(engine: Engine, path: Path, model: ModelConfig) -> dict[str, Any]:
    """Load the optimizer's part of a checkpoint, written under any layout, and return its `state.json`.

    The engine must have been built from its weights, `checkpoint_weights`. Every process calls it.
    """
    state: dict[str, Any] = read_json(path / "state.json")
    for moment in MOMENTS:
        engine.load_full_state(moment, open_layers(path / moment, model))
    engine.trainer_state = state["optimizer"]
    return state


def checkpoint_weights(path: Path, model: ModelConfig) -> Weights:
    """The weights of a checkpoint. Errors: `ConfigError` naming every tensor that does not fit `model`."""
    return Weights(str(path), path, model, None, "checkpoint", open_layers(path / WEIGHTS, model))
