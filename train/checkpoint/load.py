"""Going on from a checkpoint: the newest that is whole, on whatever layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.checksums import NO_CHECKSUMS, STATE, checksum_of, checksums, shortfall
from conf.errors import ConfigError
from conf.run_folder import read_json, step_folders
from conf.schema import FinetuneConfig, ModelConfig
from model.build import FULL
from model.weights import Weights, open_layers
from parallel.engine import Engine
from parallel.full_state import MOMENTS, WEIGHTS
from parallel.mesh import ProcessMesh


def newest_checkpoint(folder: Path, mesh: ProcessMesh, log: Callable[[str], None]) -> Path | None:
    """The newest checkpoint below `folder` whose every byte is as it was written. Every process calls it.

    One that is damaged is told to `log`, a line with the file, and the one before it is taken.
    Errors: `ConfigError` where there are checkpoints and none is whole.
    """
    found = mesh.broadcast_object(step_folders(folder) if mesh.is_main else None)
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
    """What is wrong with a folder, in words, None where nothing is. The processes share the reading.

    Each file is read once, by one of them, whatever they hold: of 16 billion weights in fp32, 64 GB by all together.
    """
    missing: str | None = mesh.broadcast_object(shortfall(path) if mesh.is_main else None)
    if missing is not None:
        return missing
    listed = mesh.broadcast_object(checksums(path) if mesh.is_main else None)
    if listed is None:
        return NO_CHECKSUMS
    kind, expected = listed
    mine = {name: checksum_of(path / name, kind) for name in sorted(expected)[mesh.rank :: mesh.size]}
    found = {name: checksum for part in mesh.all_gather_object(mine) for name, checksum in part.items()}
    wrong = sorted(file for file, checksum in expected.items() if found[file] != checksum)
    return f"{wrong[0]} does not match its checksum" if wrong else None


def load_checkpoint(engine: Engine, path: Path, model: ModelConfig, finetune: FinetuneConfig = FULL) -> dict[str, Any]:
    """Take up the optimizer's part of a checkpoint, which any layout wrote, and return its `state.json`.

    The engine must have been built from its weights, `checkpoint_weights`. Every process calls it.
    """
    state: dict[str, Any] = read_json(path / STATE)
    for moment in MOMENTS:
        engine.load_full_state(moment, open_layers(path / moment, model, finetune))
    engine.trainer_state = state["optimizer"]
    return state


def checkpoint_weights(path: Path, model: ModelConfig, finetune: FinetuneConfig = FULL) -> Weights:
    """The trained weights of a checkpoint. Errors: `ConfigError` naming every tensor that does not fit `model`."""
    return Weights(str(path), path, model, None, "checkpoint", open_layers(path / WEIGHTS, model, finetune))
