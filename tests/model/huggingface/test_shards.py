"""Files written tensor by tensor are safetensors files, cut where they would be too large."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from model.huggingface.shards import ShardWriter

LAYERS = [{f"{index}.a": torch.randn(3, 5), f"{index}.b": torch.arange(4.0).half()} for index in range(4)]


def test_one_file_where_everything_fits(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 10**6)
    for layer in LAYERS:
        writer.add(layer)
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert all(
        value.equal((LAYERS[int(name[0])])[name]) for name, value in load_file(tmp_path / "model.safetensors").items()
    )


def test_layers_stay_whole_and_the_index_names_each_tensor_s_file(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 2 * (15 * 4 + 4 * 2))
    for layer in LAYERS:
        writer.add(layer)
    writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * (15 * 4 + 4 * 2)
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    for layer in LAYERS:
        assert len({index["weight_map"][name] for name in layer}) == 1
        for name, value in layer.items():
            assert load_file(tmp_path / index["weight_map"][name])[name].equal(value)
