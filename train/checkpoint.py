"""Checkpoints: invisible until they are whole, and found again by looking.

A checkpoint is a folder `step_<n>` with the engine's files and a `state.json` that lists each of them with its size.
It is written under another name and renamed when every process is done, so a killed save leaves nothing that looks
like one. `weights/` beside it is the stage's result: one file a layer, whole fp32 tensors, the same for every layout.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from model.weights import Weights, write_layer
from parallel.engine import Engine
from parallel.layout import TensorGroup
from parallel.tensor import shard_of
from train.run_directory import read_json, write_json


def save_checkpoint(engine: Engine, folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write checkpoint `state["step"]` below `folder`, then drop all but the newest `keep`. Every process calls it."""
    name, world = f"step_{state['step']:08d}", engine.world
    if world.is_main:
        shutil.rmtree(folder / f"{name}.partial", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    world.barrier()
    engine.save(folder, f"{name}.partial")
    world.barrier()
    if world.is_main:
        partial = folder / f"{name}.partial"
        sizes = {
            str(path.relative_to(partial)): path.stat().st_size for path in sorted(partial.rglob("*")) if path.is_file()
        }
        write_json(partial / "state.json", {**state, "files": sizes})
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    world.barrier()
    return folder / name


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints below `folder`, oldest first."""
    return [path for path in sorted(folder.glob("step_*")) if path.suffix != ".partial" and is_complete(path)]


def is_complete(path: Path) -> bool:
    """Whether every file that the checkpoint lists is there in its full size."""
    if not (path / "state.json").is_file():
        return False
    files = read_json(path / "state.json")["files"]
    return all((path / name).is_file() and (path / name).stat().st_size == size for name, size in files.items())


def save_weights(engine: Engine, folder: Path) -> None:
    """Write the model's whole weights below `folder`, one `layer_<i>.safetensors` a layer. Every process calls it."""
    partial, world = folder.with_suffix(".partial"), engine.world
    if world.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.barrier()
    layer: dict[str, torch.Tensor] = {}
    current = None
    for name, value in engine.weights():
        index, _, rest = name.partition(".")
        if index != current:
            _write(partial, current, layer)
            current, layer = index, {}
        if value is not None:
            layer[rest] = value
    _write(partial, current, layer)
    world.barrier()
    if world.is_main:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    world.barrier()


def _write(folder: Path, index: str | None, layer: dict[str, torch.Tensor]) -> None:
    if index is not None and layer:
        write_layer(folder, int(index), layer)


def load_layer(weights: Weights, layer: torch.nn.Module, index: int, tensor: TensorGroup) -> None:
    """Set the weights of the `index`-th layer, in place, from whole tensors of any origin.

    Errors: ValueError naming the tensors that are missing, extra or of another shape.
    """
    parameters, found = dict(layer.named_parameters()), weights.layer(index)
    wrong = [f"missing {name}" for name in sorted(parameters.keys() - found.keys())]
    wrong += [f"extra {name}" for name in sorted(found.keys() - parameters.keys())]
    for name in sorted(found.keys() & parameters.keys()):
        full, parameter = found[name], parameters[name]
        shard = shard_of(parameter)
        value = full if shard is None else shard.slice(full, tensor.rank, tensor.size)
        if value.shape != parameter.shape:
            wrong.append(f"{name} is {list(full.shape)}, which does not fit {list(parameter.shape)}")
            continue
        with torch.no_grad():
            parameter.copy_(value)
    if wrong:
        raise ValueError(f"{weights.source}, layer {index}: {'; '.join(wrong)}")
