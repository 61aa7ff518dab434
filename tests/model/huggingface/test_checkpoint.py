"""Cutting what is joined: the pieces of a tensor as regions of the stored ones."""

from pathlib import Path

import pytest
import torch

from conf.errors import ConfigError
from model.huggingface.checkpoint import cut_regions
from model.pretrained import open_weights
from model.tensor_files import Region, join_regions
from tests.model.huggingface.random_models import random_model, save

STORED = {"a": torch.arange(20.0).view(10, 2), "b": torch.arange(20.0, 32.0).view(6, 2)}
JOINED = [Region("a", 0, 4, 10), Region("b", 0, 0, 6), Region("a", 0, 0, 4)]


@pytest.mark.parametrize("pieces", [[(0, 16)], [(0, 6)], [(5, 7)], [(0, 1), (3, 13), (15, 16)], [(7, 8)]])
def test_pieces_of_the_joined_tensor(pieces: list[tuple[int, int]]) -> None:
    whole = torch.cat([region.of(STORED[region.name]) for region in JOINED])
    expected = torch.cat([whole[first:end] for first, end in pieces])
    cut = cut_regions(JOINED, pieces, 0)
    assert join_regions({"x": cut}, lambda region: region.of(STORED[region.name]))["x"].equal(expected)
    assert sum(region.stop - region.start for region in cut) == len(expected), "nothing else is read"


def test_a_cut_across_the_join_is_an_error() -> None:
    with pytest.raises(ValueError, match="joined along dimension 0 and cannot be cut along 1"):
        cut_regions(JOINED, [(0, 1)], 1)


def test_adapters_beside_weights_are_not_left_out(tmp_path: Path) -> None:
    save(random_model(), tmp_path / "base")
    (tmp_path / "base/adapter_config.json").write_text("{}")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/adapter_config.json").write_text("{}")
    for name in ("base", "alone"):
        with pytest.raises(ConfigError, match=rf"{name} holds adapters of PEFT .*merge them with PEFT"):
            open_weights(tmp_path / name)
