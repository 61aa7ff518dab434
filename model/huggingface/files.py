"""The files of a checkpoint in Hugging Face's form: config.json, and weights in one file or in shards with an index."""

import json
from pathlib import Path, PurePath
from typing import Any

from conf.errors import ConfigError
from model.tensor_files import Shape, TensorFiles, readable, shapes_in

GENERATION = "generation_config.json"
NAMES = ("model.safetensors", "pytorch_model.bin")
BUFFERS = (".attn.causal_mask", ".attn.masked_bias", ".attn.bias")  # of old files; the model makes its own


def find_tensors(folder: Path) -> TensorFiles:
    """The tensors of the checkpoint in `folder`, from the headers, without the buffers of old files.

    As in transformers, a file comes before an index, which may be left from weights that it replaced. Errors:
    `ConfigError` where there are none, a shard is missing or outside of the folder, or a file cannot be read.
    """
    for name in NAMES:
        if (folder / name).is_file():
            return _tensors_in([folder / name])
        index = folder / f"{name}.index.json"
        if index.is_file():
            with readable(index):
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                outside = [shard for shard in shards if PurePath(shard).name != shard]
            if outside:
                raise ConfigError(f"{index} names files outside of its folder: {', '.join(outside)}")
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent:
                raise ConfigError(f"{folder} is not whole: {index.name} names {', '.join(absent)}; fetch it again")
            return _tensors_in([folder / shard for shard in shards])
    raise ConfigError(f"{folder} holds a config.json and no weights: no {' and no '.join(NAMES)}")


def _tensors_in(paths: list[Path]) -> TensorFiles:
    files: dict[str, Path] = {}
    shapes: dict[str, Shape] = {}
    for path in paths:
        for name, shape in shapes_in(path).items():
            if not name.endswith(BUFFERS):
                files[name], shapes[name] = path, shape
    return TensorFiles(files, shapes)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Errors: `ConfigError`."""
    with readable(folder / "config.json"):
        return dict(json.loads((folder / "config.json").read_text()))


def read_generation(folder: Path) -> dict[str, Any]:
    """The folder's generation_config.json, how its model generates by default; empty where it has none.

    Errors: `ConfigError` where it cannot be read.
    """
    path = folder / GENERATION
    with readable(path):
        return dict(json.loads(path.read_text())) if path.is_file() else {}


def write_generation(folder: Path, generation: dict[str, Any]) -> None:
    """Write generation_config.json, unless it would be empty."""
    if generation:
        (folder / GENERATION).write_text(json.dumps(generation, indent=2) + "\n")
