"""Initial weights: JAXFORMER's distributions, and the same whole weights for every tensor-parallel size."""

import math
from dataclasses import replace

import pytest
import torch

from conf.schema import ModelConfig
from model.build import build_layers
from model.init import CHUNK, init_layer, init_parameter
from parallel.hashing import hash_grid
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


def test_the_distribution_is_the_cut_normal(tiny: ModelConfig) -> None:
    """Against the distribution function in fp64, and no weight goes with its neighbours."""
    values = init_parameter("1.in_proj.weight", (1000, 1003), replace(tiny, n_embd=1), seed=3).double()
    ordered = values.flatten().sort().values
    bound = math.erf(2 / 2**0.5)
    expected = (torch.erf(ordered / 2**0.5) / bound + 1) / 2
    found = (torch.arange(len(ordered), dtype=torch.float64) + 0.5) / len(ordered)
    assert (expected - found).abs().max() < 1.6 / len(ordered) ** 0.5, "Kolmogorov-Smirnov, at 1%"
    for one, other in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 4e-3


def test_a_rank_computes_its_slice_only(tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 ranks each hashes an eighth of every matrix, in pieces."""
    hashed: list[int] = []

    def counted(rows: torch.Tensor, columns: torch.Tensor, keys: tuple[int, int]) -> torch.Tensor:
        hashed.append(len(rows) * len(columns))
        return hash_grid(rows, columns, keys)

    monkeypatch.setattr("model.init.hash_grid", counted)
    monkeypatch.setitem(CHUNK, "cpu", 1000)
    modules = built(replace(tiny, n_head=8), TensorParallelGroup(size=8, rank=3))
    matrices = [p.numel() for layer in modules for p in layer.parameters() if p.dim() == 2]
    assert sum(hashed) == sum(matrices) and max(hashed) <= 1000


def test_seed_layer_and_name_all_matter(tiny: ModelConfig) -> None:
    one, other = built(tiny, TensorParallelGroup(), 1), built(tiny, TensorParallelGroup(), 2)
    assert not torch.equal(one[1].in_proj.weight, other[1].in_proj.weight)
    assert not torch.equal(one[1].in_proj.weight, one[2].in_proj.weight)
