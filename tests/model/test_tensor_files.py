"""Parts of stored tensors, from every kind of file; a file that cannot be read is one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from conf.errors import ConfigError
from model.tensor_files import Region, TensorFiles, read_regions, read_tensors, readable, shapes_in

KINDS = ("whole.safetensors", "zip.bin", "old.bin")
TENSORS = {"matrix": torch.arange(48.0).view(6, 8), "vector": torch.arange(5).half()}


def write(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind.endswith(".bin"):  # torch's own: zip since 1.6, pickles followed by bytes before
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip.bin")
    else:
        save_file(TENSORS, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_tensors_and_regions(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    assert shapes_in(path) == {"matrix": (6, 8), "vector": (5,)}
    assert all(value.equal(TENSORS[name]) for name, value in read_tensors(path).items())
    assert read_tensors(path, ["vector"]).keys() == {"vector"}
    rows, columns = Region("matrix", 0, 1, 3), Region("matrix", 1, 2, 7)
    found = read_regions(path, [rows, columns])
    assert found[rows].equal(TENSORS["matrix"][1:3]) and found[columns].equal(TENSORS["matrix"][:, 2:7])


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_joined_in_order_and_own_their_memory(tmp_path: Path, kind: str) -> None:
    files = TensorFiles(dict.fromkeys(TENSORS, write(tmp_path, kind)), {})
    joined = files.read_joined(
        {"x": [Region("matrix", 0, 4, 6), Region("matrix", 0, 0, 1)], "y": [Region("matrix", 1, 0, 2)]}
    )
    assert joined["x"].equal(torch.cat([TENSORS["matrix"][4:6], TENSORS["matrix"][:1]]))
    part: Tensor = joined["y"]
    assert part.equal(TENSORS["matrix"][:, :2]) and part.untyped_storage().nbytes() == part.nbytes
    assert files.read(["vector"])["vector"].equal(TENSORS["vector"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone"])
def test_a_damaged_file_is_one_line(tmp_path: Path, kind: str, damage: str) -> None:
    path = write(tmp_path, kind)
    content = {"cut": path.read_bytes()[:-60], "empty": b"", "text": b"<html>not found</html>", "gone": b""}[damage]
    path.write_bytes(content)
    if damage == "gone":
        path.unlink()
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_tensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    for new in (True, False):
        torch.save({"matrix": Runs()}, tmp_path / "x.bin", _use_new_zipfile_serialization=new)
        with pytest.raises(ConfigError, match="cannot be read"):
            read_tensors(tmp_path / "x.bin")


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), readable(Path("x")):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": TENSORS, "epoch": 3}, "holds state_dict, epoch: save the model's alone"),
        ([1], "holds list"),
        ({"a": Path("x")}, "holds other Python objects than tensors, which are not loaded"),
    ],
)
def test_another_program_s_checkpoint_is_one_line(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=said) as caught:
        shapes_in(tmp_path / "pytorch_model.bin")
    assert "weights_only" not in str(caught.value), "torch's advice is to run what is in the file"


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ConfigError, match="a pointer of Git LFS, without the file: git lfs pull"):
        shapes_in(tmp_path / "pytorch_model.bin")
