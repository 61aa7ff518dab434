"""Tensor-parallel layers do what one process does; the traps of tensor parallelism, each by its name."""

import pytest
import torch

from parallel.layout import TensorGroup
from parallel.tensor import ColumnLinear, RowLinear, Shard, VocabEmbedding, pack
from tests.parallel import cases
from tests.worlds import Worlds

HIDDEN_BYTES = 2 * 8 * 32 * 4  # [batch, seq, hidden] of the cases, fp32


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("dim", "parts"), [(0, (8, 8, 8, 32)), (1, (8, 32)), (0, (16,))])
def test_slices_join_to_the_whole(size: int, dim: int, parts: tuple[int, ...]) -> None:
    shape = [3, 3]
    shape[dim] = sum(parts)
    full, shard = torch.randn(shape), Shard(dim, parts)
    slices = [shard.slice(full, rank, size) for rank in range(size)]
    assert all(piece.shape[dim] * size == sum(parts) for piece in slices)
    assert torch.equal(shard.join(slices), full)


def test_each_part_is_cut_by_itself() -> None:
    """Or q, k, v and fc_in of a checkpoint would trade places when its tensor-parallel size changes."""
    rows = torch.arange(14.0).unsqueeze(1)
    assert Shard(0, (2, 2, 2, 8)).slice(rows, 1, 2).flatten().tolist() == [1, 3, 5, 10, 11, 12, 13]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_a_block_has_one_all_reduce_each_way(size: int, overlap: bool, worlds: Worlds) -> None:
    """The bias is added once: the output equals size 1's."""
    for result in worlds(size).run(cases.block_gradients, size, False, overlap):
        assert result["counts"] == {
            "forward all_reduce": 1,
            "forward all_reduce bytes": HIDDEN_BYTES,
            "backward all_reduce": 1,
            "backward all_reduce bytes": HIDDEN_BYTES,
        }


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_sequence_parallel_block_gathers_and_scatters_once_each_way(size: int, overlap: bool, worlds: Worlds) -> None:
    """The gradients of LayerNorm (weight, bias) and of fc_out's bias see their own tokens: three small sums a block."""
    for result in worlds(size).run(cases.block_gradients, size, True, overlap):
        counts = result["counts"]
        assert {name: count for name, count in counts.items() if "small" not in name} == {
            f"{when} {kind}{suffix}": HIDDEN_BYTES if suffix else 1
            for when in ("forward", "backward")
            for kind in ("all_gather", "reduce_scatter")
            for suffix in ("", " bytes")
        }
        assert counts["backward small all_reduce"] == 3
        assert counts["backward small all_reduce bytes"] == 3 * 32 * 4


def test_a_sequential_block_pays_twice_as_much(worlds: Worlds) -> None:
    for counts in worlds(2).run(cases.sequential_counts, 2):
        assert counts == {
            f"{when} all_reduce{suffix}": 2 * HIDDEN_BYTES if suffix else 2
            for when in ("forward", "backward")
            for suffix in ("", " bytes")
        }


def test_dropout_agrees_where_tokens_are_shared_and_differs_where_they_are_not(worlds: Worlds) -> None:
    one, other = worlds(2).run(cases.dropped_channels, 2, False)
    assert torch.equal(one, other)
    one, other = worlds(2).run(cases.dropped_channels, 2, True)
    assert not torch.equal(one, other)


@torch.inference_mode()
def test_packed_matrices_give_the_same_products() -> None:
    """With and without a bias, for a few rows and for many; the embedding's table is no product and stays."""
    alone = TensorGroup()
    layers = [ColumnLinear(48, (16, 24), alone), RowLinear((48,), 40, alone), VocabEmbedding(96, 48, alone)]
    for layer in layers:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter)
    inputs = [torch.randn(2, 1, 48), torch.randn(3, 70, 48), torch.randn(8, 48)]
    for layer in layers[:2]:
        expected = [layer(x) for x in inputs]
        pack(layer)
        assert layer.weight.is_mkldnn == torch.backends.mkldnn.is_available()
        for x, value in zip(inputs, expected, strict=True):
            torch.testing.assert_close(layer(x), value, rtol=1e-5, atol=1e-5)
    pack(layers[2])
    assert not layers[2].weight.is_mkldnn
    half = ColumnLinear(48, (16,), alone).bfloat16()
    pack(half)
    assert not half.weight.is_mkldnn
