"""Layers come back from disk, whole or one rank's slices; a rank reads its slices and nothing else."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conf.choices import Recompute
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model import tensor_files
from model.build import build_layers, layer_shapes
from model.codegen import Block
from model.huggingface.convert import import_weights
from model.init import init_layer
from model.kernels import REFERENCE
from model.pretrained import open_weights
from model.weights import Weights, layers_in, load_layer, memory_reader, open_layers, refuse_damaged, write_layer
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import shard_of
from tests.model.huggingface.random_models import random_model, save
from tests.train.checkpoint.test_load import flip
from tests.twin import initial_weights


def weights_in(folder: Path, model: ModelConfig) -> Weights:
    return Weights("test", folder, model, None, "test", layers_in(folder))


def block_of(model: ModelConfig, tp: TensorParallelGroup) -> Block:
    return Block(model, tp, REFERENCE, Recompute.none, 1)


def test_a_layer_comes_back_whole_and_in_slices(tmp_path: Path, tiny: ModelConfig) -> None:
    whole = block_of(tiny, TensorParallelGroup())
    init_layer(whole, 1, tiny, TensorParallelGroup(), seed=9)
    save_file({name: p.detach().clone() for name, p in whole.named_parameters()}, tmp_path / "layer_001.safetensors")
    for tp in (TensorParallelGroup(), TensorParallelGroup(size=2, rank=1)):
        layer, expected = block_of(tiny, tp), block_of(tiny, tp)
        load_layer(weights_in(tmp_path, tiny), layer, 1, tp)
        init_layer(expected, 1, tiny, tp, seed=9)
        assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("size", [1, 2])
def test_everything_that_does_not_fit_is_named_at_once(tmp_path: Path, tiny: ModelConfig, size: int) -> None:
    layer = block_of(tiny, TensorParallelGroup())
    init_layer(layer, 1, tiny, TensorParallelGroup(), seed=9)
    path = tmp_path / "layer_001.safetensors"
    save_file({name: p.detach().clone() for name, p in layer.named_parameters()}, path)
    tensors = load_file(path)
    tensors["surplus"] = tensors.pop("mlp_bias")
    tensors["norm.weight"] = tensors["norm.weight"][:3].clone()
    save_file(tensors, path)
    tp = TensorParallelGroup(size=size)
    with pytest.raises(ValueError, match=r"missing mlp_bias; extra surplus; norm\.weight is \[3\]"):
        load_layer(weights_in(tmp_path, tiny), block_of(tiny, tp), 1, tp)


def native(folder: Path) -> Weights:
    model = open_weights(save(random_model(), folder / "source")).model
    for index, layer in enumerate(initial_weights(model, seed=2)):
        write_layer(folder, index, layer)
    return Weights("native", folder, model, None, "test", open_layers(folder, model))


def released(mp_num: int, form: str = "model.safetensors", **keys: str) -> Callable[[Path], Weights]:
    def make(folder: Path) -> Weights:
        save(random_model(torch.float16), folder, **keys)
        if form.endswith("bin"):
            path = folder / "model.safetensors"
            torch.save(load_file(path), folder / form, _use_new_zipfile_serialization="old" not in form)
            path.unlink()
            (folder / form).rename(folder / "pytorch_model.bin")
        return open_weights(folder, mp_num)

    return make


ORIGINS = {
    "native": native,
    "released, 1 group": released(1),
    "released, 4 groups": released(4),
    "released, 8 groups in shards": released(8, max_shard_size="100KB"),
    "released, .bin": released(4, "pytorch_model.bin"),
    "released, old .bin": released(4, "old.bin"),
}


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_slices_are_those_of_the_whole_tensors(tmp_path: Path, origin: str, size: int) -> None:
    weights = ORIGINS[origin](tmp_path)
    for index, shapes in enumerate(layer_shapes(weights.model)):
        whole = weights.layer(index)
        assert {name: tuple(value.shape) for name, value in whole.items()} == shapes
        for rank in range(size):
            tp = TensorParallelGroup(size=size, rank=rank)
            layer = build_layers(weights.model, tp)[index]()
            shards = {name: shard_of(parameter) for name, parameter in layer.named_parameters()}
            assert any(shard is not None for shard in shards.values()) == (size > 1)
            sliced = weights.layer(index, shards, tp)
            assert sliced.keys() == whole.keys()
            for name, value in sliced.items():
                shard = shards[name]
                expected = whole[name] if shard is None else shard.slice(whole[name], rank, size)
                assert value.dtype is expected.dtype and torch.equal(value, expected), f"{index}.{name}"


@pytest.mark.parametrize("origin", ["native", "released, 4 groups", "released, 8 groups in shards"])
def test_a_rank_reads_its_slices_and_nothing_else(tmp_path: Path, origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the files are read: each of 4 ranks reads a quarter of every matrix, and every vector it shares."""
    weights = ORIGINS[origin](tmp_path)
    read: list[int] = []
    original = tensor_files.safe_open

    class Counted:
        def __init__(self, *arguments: object, **keys: object) -> None:
            self.opened = original(*arguments, **keys)

        def __enter__(self) -> "Counted":
            self.file = self.opened.__enter__()
            return self

        def __exit__(self, *arguments: object) -> None:
            self.opened.__exit__(*arguments)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(self.file.get_tensor(name).nbytes)
            return self.file.get_tensor(name)

        def get_slice(self, name: str) -> "CountedSlice":
            return CountedSlice(self.file.get_slice(name))

    class CountedSlice:
        def __init__(self, part: object) -> None:
            self.part = part
            self.get_shape = part.get_shape

        def __getitem__(self, index: object) -> torch.Tensor:
            value = self.part[index]
            read.append(value.nbytes)
            return value

    monkeypatch.setattr(tensor_files, "safe_open", Counted)
    for index in range(weights.model.n_layer + 2):
        for size in (1, 2, 4):
            tp = TensorParallelGroup(size=size, rank=size - 1)
            layer = build_layers(weights.model, tp)[index]()
            read.clear()
            load_layer(weights, layer, index, tp)
            stored = 2 if "released" in origin else 4
            assert sum(read) == stored * sum(parameter.numel() for parameter in layer.parameters())


def test_a_changed_bit_of_any_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    source = open_weights(save(random_model(), tmp_path / "source"))
    imported = import_weights(source, tmp_path / "ours").folder / "weights"
    stage = tmp_path / "run/stages/nl/weights"
    shutil.copytree(imported, stage)
    for folder, cure in ((imported, "import it again"), (stage, f"delete it and {stage.parent}/best.json and launch")):
        weights = replace(source, sealed=(folder,))
        refuse_damaged(weights)
        for path in sorted(folder.iterdir()):
            whole = path.read_bytes()
            flip(path)
            with pytest.raises(ConfigError, match=rf"^{folder} is damaged: {path.name} .*; bring it .*, or {cure}"):
                refuse_damaged(weights)
            path.write_bytes(whole)
        flip(folder / "layer_000.safetensors")
        (folder / "state.json").unlink()
        refuse_damaged(weights)  # as earlier versions left them, without checksums


def test_layers_in_memory_are_sliced_alike(tiny: ModelConfig) -> None:
    layers, tp = initial_weights(tiny, seed=0), TensorParallelGroup(size=2, rank=1)
    read, block = memory_reader(layers), block_of(tiny, tp)
    load_layer(Weights("memory", Path(), tiny, None, "memory", read), block, 1, tp)
    expected = block_of(tiny, tp)
    init_layer(expected, 1, tiny, tp, seed=0)
    assert all(torch.equal(p, q) for p, q in zip(block.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(read(1)[name], value) for name, value in layers[1].items())
