"""Initial weights: JAXFORMER's distributions, and the same whole weights for every tensor-parallel size."""

from dataclasses import replace

import pytest
import torch

from conf.schema import ModelConfig
from model.build import build_layers
from model.init import init_layer
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import shard_of


def built(model: ModelConfig, tp: TensorParallelGroup, seed: int = 1) -> list[torch.nn.Module]:
    modules = [build() for build in build_layers(model, tp)]
    for index, layer in enumerate(modules):
        init_layer(layer, index, model, tp, seed)
    return modules


@pytest.mark.parametrize("size", [2, 4])
def test_slices_of_every_size_join_to_the_same_weights(size: int, tiny: ModelConfig) -> None:
    ranks = [built(tiny, TensorParallelGroup(size=size, rank=rank)) for rank in range(size)]
    for index, layer in enumerate(built(tiny, TensorParallelGroup())):
        for name, whole in layer.named_parameters():
            slices = [dict(modules[index].named_parameters())[name] for modules in ranks]
            shard = shard_of(slices[0])
            joined = slices[0] if shard is None else shard.join([piece.data for piece in slices])
            assert torch.equal(joined, whole), f"{index}.{name}"


def test_standard_deviations(tiny: ModelConfig) -> None:
    model = replace(tiny, n_layer=4, n_embd=256, vocab_size=1024)
    embedding, block, *_, head = built(model, TensorParallelGroup())
    truncated = 0.8796  # of a normal cut at two standard deviations
    expected = {
        embedding.tokens.weight: 1024**-0.5,
        block.in_proj.weight: 256**-0.5,
        block.out_proj.weight: (2 / 4) * 256**-0.5,
        head.weight: 256**-0.5,
    }
    for parameter, deviation in expected.items():
        assert parameter.std().item() == pytest.approx(truncated * deviation, rel=0.02)
        assert parameter.abs().max() <= 2 * deviation
    assert torch.equal(block.norm.weight, torch.ones(256)) and not block.norm.bias.any()
    assert not block.mlp_bias.any() and not block.out_proj.bias.any() and not head.bias.any()


def test_seed_layer_and_name_all_matter(tiny: ModelConfig) -> None:
    one, other = built(tiny, TensorParallelGroup(), 1), built(tiny, TensorParallelGroup(), 2)
    assert not torch.equal(one[1].in_proj.weight, other[1].in_proj.weight)
    assert not torch.equal(one[1].in_proj.weight, one[2].in_proj.weight)
