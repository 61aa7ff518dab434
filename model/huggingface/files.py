"""Files of whole tensors: safetensors or torch's .bin, single or sharded with an index.

A file is opened for each read and closed after it: mapped pages count as this process's memory while it is open.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from conf.errors import ConfigError

Shape = tuple[int, ...]
NAMES = ("model.safetensors", "pytorch_model.bin")
BUFFERS = (".attn.causal_mask", ".attn.masked_bias", ".attn.bias")  # of old files; the model makes its own


@dataclass(frozen=True)
class TensorFiles:
    """Tensors of a checkpoint: which are where, and of which shape."""

    files: dict[str, Path]
    shapes: dict[str, Shape]

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """The tensors `names`, in the type that they are stored in."""
        found: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.files[name] for name in names):
            found |= read_tensors(path, [name for name in names if self.files[name] == path])
        return found


def find_tensors(folder: Path) -> TensorFiles:
    """The tensors of the checkpoint in `folder`, from headers alone, without the buffers that old files carry.

    Errors: `ConfigError` where there are none, a shard is missing, or a file cannot be read.
    """
    for name in NAMES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            with readable(index):
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent:
                raise ConfigError(f"{folder} is not whole: {index.name} names {', '.join(absent)}; fetch it again")
            return _together([folder / shard for shard in shards])
        if (folder / name).is_file():
            return _together([folder / name])
    raise ConfigError(f"{folder} holds a config.json and no weights: no {' and no '.join(NAMES)}")


def _together(paths: list[Path]) -> TensorFiles:
    files: dict[str, Path] = {}
    shapes: dict[str, Shape] = {}
    for path in paths:
        for name, shape in shapes_in(path).items():
            if not name.endswith(BUFFERS):
                files[name], shapes[name] = path, shape
    return TensorFiles(files, shapes)


def shapes_in(path: Path) -> dict[str, Shape]:
    """Shape of each tensor in one file, no tensor read. Errors: `ConfigError` where the file is cut or no such file."""
    with readable(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return {name: tuple(value.shape) for name, value in _mapped(path).items()}


def read_tensors(path: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors `names` of one file; all of them by default. Errors: as `shapes_in`."""
    with readable(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names or file.keys()}
        mapped = _mapped(path)
        return {name: mapped[name] for name in names or mapped}


def _mapped(path: Path) -> dict[str, Tensor]:
    return dict(torch.load(path, map_location="cpu", mmap=True, weights_only=True))


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Errors: `ConfigError`."""
    with readable(folder / "config.json"):
        return dict(json.loads((folder / "config.json").read_text()))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """One line for a file that is cut, of another format or gone."""
    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        RuntimeError,
        SafetensorError,
        UnpicklingError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} cannot be read ({reason}); it is cut or no such file: fetch or write it again"
        ) from None
