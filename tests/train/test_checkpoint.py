"""What counts as a checkpoint, and weights that come back."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conf.schema import Model, Recompute
from model.codegen import Block
from model.huggingface.files import read_tensors
from model.init import initialise
from model.kernels import REFERENCE
from model.weights import Weights, layer_file
from parallel.layout import TensorGroup
from train.checkpoint import checkpoints, load_layer
from train.run_directory import write_json


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    (path / "part").write_bytes(b"12345")
    write_json(path / "state.json", {"step": step, "files": {"part": 5}})
    return path


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    whole, cut, short, unlisted = (checkpoint(tmp_path, step) for step in (2, 4, 6, 8))
    (cut / "part").unlink()
    (short / "part").write_bytes(b"1234")
    (unlisted / "state.json").unlink()
    checkpoint(tmp_path, 10).rename(tmp_path / "step_00000010.partial")
    assert checkpoints(tmp_path) == [whole]
    newer = checkpoint(tmp_path, 12)
    assert checkpoints(tmp_path) == [whole, newer]
    assert checkpoints(tmp_path / "none") == []


def weights_in(folder: Path, model: Model) -> Weights:
    return Weights("test", folder, model, None, "test", lambda index: read_tensors(folder / layer_file(index)))


def block_of(model: Model, tensor: TensorGroup) -> Block:
    return Block(model, tensor, REFERENCE, Recompute.none)


def test_a_layer_comes_back_whole_and_in_slices(tmp_path: Path, tiny: Model) -> None:
    whole = block_of(tiny, TensorGroup())
    initialise(whole, 1, tiny, TensorGroup(), seed=9)
    save_file({name: p.detach().clone() for name, p in whole.named_parameters()}, tmp_path / "layer_001.safetensors")
    for tensor in (TensorGroup(), TensorGroup(size=2, rank=1)):
        layer, expected = block_of(tiny, tensor), block_of(tiny, tensor)
        load_layer(weights_in(tmp_path, tiny), layer, 1, tensor)
        initialise(expected, 1, tiny, tensor, seed=9)
        assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), expected.parameters(), strict=True))


def test_everything_that_does_not_fit_is_named_at_once(tmp_path: Path, tiny: Model) -> None:
    layer = block_of(tiny, TensorGroup())
    initialise(layer, 1, tiny, TensorGroup(), seed=9)
    path = tmp_path / "layer_001.safetensors"
    save_file({name: p.detach().clone() for name, p in layer.named_parameters()}, path)
    tensors = load_file(path)
    tensors["surplus"] = tensors.pop("mlp_bias")
    tensors["norm.weight"] = tensors["norm.weight"][:3].clone()
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"missing mlp_bias; extra surplus; norm\.weight is \[3\]"):
        load_layer(weights_in(tmp_path, tiny), layer, 1, TensorGroup())
