"""Files of tensors on disk, safetensors or torch's .bin, of which a part can be read without the rest.

A file is opened for each read and closed after it: mapped pages count as this process's memory while it is open.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from conf.errors import ConfigError

Shape = tuple[int, ...]
LFS = b"version https://git-lfs"
ZIP = b"PK\x03\x04"  # how a .bin file begins; older ones (torch < 1.6) are pickles followed by the tensors' bytes


@dataclass(frozen=True)
class Region:
    """Of the stored tensor `name`: positions `start` up to `stop` along dimension `dim`; the other dimensions whole."""

    name: str
    dim: int
    start: int
    stop: int

    def of(self, tensor: Tensor) -> Tensor:
        """The region as a view of the whole `tensor`."""
        return tensor.narrow(self.dim, self.start, self.stop - self.start)


@dataclass(frozen=True)
class TensorFiles:
    """Tensors of a checkpoint: which file each is in, and its shape."""

    files: dict[str, Path]
    shapes: dict[str, Shape]

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """The whole tensors `names`, in the type that they are stored in."""
        found: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.files[name] for name in names):
            found |= read_tensors(path, [name for name in names if self.files[name] == path])
        return found

    def read_joined(self, wanted: Mapping[str, Sequence[Region]]) -> dict[str, Tensor]:
        """For each key the tensor that its regions make, joined in their order along their dimension."""
        regions = [region for parts in wanted.values() for region in parts]
        found: dict[Region, Tensor] = {}
        for path in dict.fromkeys(self.files[region.name] for region in regions):
            found |= read_regions(path, [region for region in regions if self.files[region.name] == path])
        return join_regions(wanted, lambda region: found[region])


def join_regions(wanted: Mapping[str, Sequence[Region]], read: Callable[[Region], Tensor]) -> dict[str, Tensor]:
    """For each key the tensor that its regions make, as `read` gives each region."""
    return {key: _join([read(region) for region in regions], regions[0].dim) for key, regions in wanted.items()}


def _join(pieces: list[Tensor], dim: int) -> Tensor:
    if len(pieces) > 1:
        return torch.cat(pieces, dim=dim)
    is_part = pieces[0].untyped_storage().nbytes() > pieces[0].nbytes
    return pieces[0].clone() if is_part else pieces[0]  # a part would keep its whole tensor in memory, or mapped


def shapes_in(path: Path) -> dict[str, Shape]:
    """Shape of each tensor in one file, from its header. Errors: `ConfigError` where the file is cut or no such file.

    A .bin file in torch's old format has no header: it is read whole.
    """
    with readable(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return {name: tuple(value.shape) for name, value in _load_bin(path).items()}


def read_tensors(path: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """The whole tensors `names` of one file; all of them by default. Errors: as `shapes_in`."""
    with readable(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in names or file.keys()}
        tensors = _load_bin(path)
        return {name: tensors[name] for name in names or tensors}


def read_regions(path: Path, regions: Sequence[Region]) -> dict[Region, Tensor]:
    """Each of `regions` of one file; nothing else of it is read. Errors: as `shapes_in`.

    A .bin file in torch's old format is read whole, once a call.
    """
    with readable(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {region: _read_region(file, region) for region in regions}
        tensors = _load_bin(path)
        return {region: region.of(tensors[region.name]) for region in regions}


def _read_region(file: safe_open, region: Region) -> Tensor:
    index = [slice(None)] * region.dim + [slice(region.start, region.stop)]
    part: Tensor = file.get_slice(region.name)[tuple(index)]  # type: ignore[no-untyped-call]
    return part


def _load_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file: mapped, not read; those of the old format are read."""
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if start == LFS:
        raise ValueError("it is a pointer of Git LFS, without the file: git lfs pull")
    try:
        found = torch.load(path, map_location="cpu", mmap=start.startswith(ZIP), weights_only=True)
    except UnpicklingError:  # torch's own words advise to run what is in the file
        raise ValueError("it holds other Python objects than tensors, which are not loaded") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        keys = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"it is no dictionary of tensors by name but holds {keys[:80]}: save the model's alone")
    return found


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """`ConfigError`, one line, for a file that is cut, of another format or gone."""
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
