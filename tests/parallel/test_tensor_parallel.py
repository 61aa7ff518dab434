"""Tensor-parallel layers do what one process does; the traps of tensor parallelism, each by its name."""

import pytest
import torch

from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import ColumnLinear, LayerNorm, RowLinear, Shard, VocabEmbedding, pack
from tests.parallel import cases, test_tensor_parallel
from tests.worlds import Worlds, mesh_of

HIDDEN_BYTES = 2 * 8 * 32 * 4  # [batch, seq, hidden] of the cases, fp32


CUTS = [(0, (8, 8, 8, 32)), (1, (8, 32)), (0, (24,)), (0, (12, 12, 12, 48)), (1, (6, 24))]


@pytest.mark.parametrize(
    ("dim", "parts", "size"),
    [(*cut, size) for cut in CUTS for size in range(1, 9) if not any(p % size for p in cut[1])],
)
def test_slices_join_to_the_whole(dim: int, parts: tuple[int, ...], size: int) -> None:
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


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(
    ("kind", "tensor_parallel_overlap"),
    [("column", False), ("column", True), ("row", False), ("embedding", False), ("norm", False)],
)
def test_each_layer_is_its_size_1_self(
    kind: str, tensor_parallel_overlap: bool, sequence_parallel: bool, worlds: Worlds
) -> None:
    worlds(2).run(cases.layer_gradients, kind, 2, sequence_parallel, tensor_parallel_overlap)


def bias_alone(size: int, sequence_parallel: bool) -> torch.Tensor:
    """What a row layer of zero weights and a bias of one makes."""
    layer = RowLinear((8, 24), 16, mesh_of(size, 1, sequence_parallel).tp)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.ones_(layer.bias)
    return layer(torch.randn(2, 8, 32 // size)).detach()


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_trap_bias_added_once_per_rank(sequence_parallel: bool, worlds: Worlds) -> None:
    """GPT-NeoX issue 962: a bias that is summed over the group counts as often as there are ranks."""
    for output in worlds(2).run(test_tensor_parallel.bias_alone, 2, sequence_parallel):
        assert torch.equal(output, torch.ones_like(output))


def counted_tokens(size: int, sequence_parallel: bool) -> dict[str, torch.Tensor]:
    """Gradients of the parameters that every rank holds whole, where each token adds one to a bias's gradient."""
    tp = mesh_of(size, 1, sequence_parallel).tp
    norm, row = LayerNorm(16, 1e-5, tp), RowLinear((8, 24), 16, tp)
    torch.nn.init.zeros_(row.weight)
    torch.nn.init.zeros_(row.bias)
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2))
    norm(x.chunk(size, dim=1)[tp.rank] if sequence_parallel else x).sum().backward()
    row(torch.randn(2, 8, 32 // size)).sum().backward()
    return {"norm.weight": norm.weight.grad, "norm.bias": norm.bias.grad, "row.bias": row.bias.grad}


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_trap_replicated_gradients_under_sequence_parallelism(sequence_parallel: bool, worlds: Worlds) -> None:
    """LayerNorm and fc_out's bias see a part of the tokens on each rank; their gradients count all 16, once."""
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2))
    by_token = torch.nn.functional.layer_norm(x, (16,))
    for gradients in worlds(2).run(test_tensor_parallel.counted_tokens, 2, sequence_parallel):
        assert gradients["norm.bias"].tolist() == gradients["row.bias"].tolist() == [16.0] * 16
        torch.testing.assert_close(gradients["norm.weight"], by_token.sum((0, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tensor_parallel_overlap", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_a_block_has_one_all_reduce_each_way(size: int, tensor_parallel_overlap: bool, worlds: Worlds) -> None:
    """The bias is added once: the output equals size 1's."""
    for result in worlds(size).run(cases.block_gradients, size, False, tensor_parallel_overlap):
        assert result["counts"] == {
            "forward all_reduce": 1,
            "forward all_reduce bytes": HIDDEN_BYTES,
            "backward all_reduce": 1,
            "backward all_reduce bytes": HIDDEN_BYTES,
        }


@pytest.mark.parametrize("tensor_parallel_overlap", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_sequence_parallel_block_gathers_and_scatters_once_each_way(
    size: int, tensor_parallel_overlap: bool, worlds: Worlds
) -> None:
    """The gradients of LayerNorm (weight, bias) and of fc_out's bias see their own tokens: three small sums a block."""
    for result in worlds(size).run(cases.block_gradients, size, True, tensor_parallel_overlap):
        counts = result["counts"]
        assert {name: count for name, count in counts.items() if "small" not in name} == {
            f"{when} {kind}{suffix}": HIDDEN_BYTES if suffix else 1
            for when in ("forward", "backward")
            for kind in ("all_gather_into_tensor", "reduce_scatter_tensor")
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


@torch.inference_mode()
def test_packed_matrices_give_the_same_products() -> None:
    """With and without a bias, for a few rows and for many; the embedding's table is no product and stays."""
    alone = TensorParallelGroup()
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
