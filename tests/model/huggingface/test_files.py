"""Weights in one file or in shards; what is missing is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conf.errors import ConfigError
from model.huggingface.files import find_tensors, read_config, read_generation


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json names two\.safetensors; fetch it again"):
        find_tensors(tmp_path)
    save_file({"b": torch.ones(3), "h.0.attn.causal_mask": torch.ones(1)}, tmp_path / "two.safetensors")
    found = find_tensors(tmp_path)
    assert found.shapes == {"a": (2,), "b": (3,)}, "buffers of old files are left out"
    assert found.files["b"].name == "two.safetensors"
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    assert find_tensors(tmp_path).shapes == {"a": (4,)}, "saved later in one file: the index is left over"


@pytest.mark.parametrize("shard", ["../one.safetensors", "/etc/one.safetensors", "below/one.safetensors"])
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, shard: str) -> None:
    (tmp_path / "here").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    (tmp_path / "here/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ConfigError, match=r"index\.json names files outside of its folder: .*one\.safetensors"):
        find_tensors(tmp_path / "here")


def test_one_file_is_enough_and_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights: no model\.safetensors and no pytorch_model\.bin"):
        find_tensors(tmp_path)
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert find_tensors(tmp_path).shapes == {"a": (2,)}


@pytest.mark.parametrize("content", [None, "{", "[1, 2]"])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
        (tmp_path / "generation_config.json").write_text(content)
        with pytest.raises(ConfigError, match=r"generation_config\.json cannot be read"):
            read_generation(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        read_config(tmp_path)
