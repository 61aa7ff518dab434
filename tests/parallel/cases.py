"""What every process of a world runs for the tests of this folder, each compared with the same layers at size 1."""

from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from conf.choices import IGNORE_INDEX, Recompute
from conf.schema import ModelConfig
from model.codegen import Block
from model.init import init_layer
from model.kernels import REFERENCE
from parallel.cross_entropy import LossOptions, chunked_cross_entropy
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import ColumnLinear, LayerNorm, RowLinear, Shard, VocabEmbedding, shard_of
from tests.worlds import mesh_of

MODEL = ModelConfig("case", 2, 32, 4, 4, 64, 8, 1e-5, 0.0)
COLLECTIVES = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor")


def block_of(tp: TensorParallelGroup, model: ModelConfig = MODEL) -> Block:
    """A block with the same whole weights whatever the group, norms and biases away from 1 and 0."""
    block = Block(model, tp, REFERENCE, Recompute.none, 1)
    whole = Block(model, TensorParallelGroup(), REFERENCE, Recompute.none, 1)
    init_layer(whole, 1, model, TensorParallelGroup(), seed=3)
    generator = torch.Generator().manual_seed(4)
    for (_, full), (_, mine) in zip(whole.named_parameters(), block.named_parameters(), strict=True):
        full.data.add_(0.1 * torch.randn(full.shape, generator=generator))
        shard = shard_of(mine)
        mine.data.copy_(full if shard is None else shard.slice(full.data, tp.rank, tp.size))
    return block


def _whole(gradient: Tensor, parameter: nn.Parameter, tp: TensorParallelGroup) -> Tensor:
    shard = shard_of(parameter)
    if shard is None:
        return gradient
    slices = [torch.empty_like(gradient) for _ in range(tp.size)]
    dist.all_gather(slices, gradient.contiguous(), group=tp.group)
    return shard.join(slices)


def layer_gradients(kind: str, size: int, sequence_parallel: bool, tensor_parallel_overlap: bool) -> None:
    """Output, input gradient and whole parameter gradients of one layer equal those of one process."""
    tp, parts, cut = mesh_of(size, 1, sequence_parallel, tensor_parallel_overlap).tp, (8, 24), Shard(2, (8, 24))

    def sequence(value: Tensor) -> Tensor:
        return value.chunk(size, dim=1)[tp.rank] if sequence_parallel else value

    def features(value: Tensor) -> Tensor:
        return cut.slice(value, tp.rank, size)

    generator = torch.Generator().manual_seed(1)
    hidden, wide = torch.randn(2, 8, 16, generator=generator), torch.randn(2, 8, 32, generator=generator)
    ids, width = torch.randint(0, 24, (2, 8), generator=generator), hidden.shape[-1]
    make, x, own_input, own_output = {
        "column": (lambda group: ColumnLinear(width, parts, group), hidden, sequence, features),
        "row": (lambda group: RowLinear(parts, width, group), wide, features, sequence),
        "embedding": (lambda group: VocabEmbedding(24, width, group), ids, lambda value: value, sequence),
        "norm": (lambda group: LayerNorm(width, 1e-5, group), hidden, sequence, sequence),
    }[kind]
    alone, layer = make(TensorParallelGroup()), make(tp)
    for (_, full), (_, mine) in zip(alone.named_parameters(), layer.named_parameters(), strict=True):
        full.data.copy_(torch.randn(full.shape, generator=generator))
        shard = shard_of(mine)
        mine.data.copy_(full if shard is None else shard.slice(full.data, tp.rank, size))
    differentiable = x.is_floating_point()
    whole, own = x.clone().requires_grad_(differentiable), own_input(x).clone().requires_grad_(differentiable)
    expected, output = alone(whole), layer(own)
    upstream = torch.randn(expected.shape, generator=generator)
    expected.backward(upstream)
    output.backward(own_output(upstream))
    torch.testing.assert_close(output, own_output(expected), rtol=1e-5, atol=1e-5)
    if differentiable:
        torch.testing.assert_close(own.grad, own_input(whole.grad), rtol=1e-5, atol=1e-5)
    for (name, full), (_, mine) in zip(alone.named_parameters(), layer.named_parameters(), strict=True):
        assert torch.allclose(_whole(mine.grad, mine, tp), full.grad, rtol=1e-5, atol=1e-5), name


def block_gradients(size: int, sequence_parallel: bool, tensor_parallel_overlap: bool) -> dict[str, Any]:
    """Output, input gradient and every whole parameter gradient of a block, beside those of one process."""
    tp = mesh_of(size, 1, sequence_parallel, tensor_parallel_overlap).tp
    x = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(2))

    alone = block_of(TensorParallelGroup())
    whole_x = x.clone().requires_grad_()
    expected = alone(whole_x)
    expected.backward(upstream)

    def mine(value: Tensor) -> Tensor:
        return value.chunk(size, dim=1)[tp.rank] if sequence_parallel else value

    block, own_x = block_of(tp), mine(x).clone().requires_grad_()
    counts: Counter[str] = Counter()
    with _counting(counts, "forward"):
        output = block(own_x)
    with _counting(counts, "backward"):
        output.backward(mine(upstream))
    gradients = {name: _whole(p.grad, p, tp) for name, p in block.named_parameters()}
    torch.testing.assert_close(output, mine(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_x.grad, mine(whole_x.grad), rtol=1e-5, atol=1e-5)
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    return {"counts": dict(counts)}


def sequential_counts(size: int) -> dict[str, int]:
    """Collectives of a block whose attention and MLP follow one another, from the same layers."""
    tp, d = mesh_of(size, 1).tp, 32
    pairs = [(ColumnLinear(d, parts, tp), RowLinear(parts[-1:], d, tp)) for parts in ((d, d, d), (4 * d,))]
    x = torch.randn(2, 8, d, requires_grad=True)
    counts: Counter[str] = Counter()
    with _counting(counts, "forward"):
        hidden_states = x
        for column, row in pairs:
            hidden_states = hidden_states + row(column(hidden_states)[..., -row.weight.shape[1] :])
    with _counting(counts, "backward"):
        hidden_states.sum().backward()
    return dict(counts)


def _counting(counts: Counter[str], when: str) -> Any:
    """Count collectives as `when name`, and their bytes as `when name bytes`; vectors (parameters) count as small."""

    def wrapped(name: str) -> Any:
        original = getattr(dist, name)

        def call(*arguments: Any, **keys: Any) -> Any:
            whole = arguments[1] if name == "reduce_scatter_tensor" else arguments[0]
            kind = name if whole.dim() > 1 else f"small {name}"
            counts[f"{when} {kind}"] += 1
            counts[f"{when} {kind} bytes"] += whole.numel() * whole.element_size()
            return original(*arguments, **keys)

        return call

    return patch.multiple(dist, **{name: wrapped(name) for name in COLLECTIVES})


def vocabulary_loss(size: int, sequence_parallel: bool, z_loss: float) -> None:
    """The loss and its gradients over a cut vocabulary equal torch's over the whole one."""
    tp = mesh_of(size, 1, sequence_parallel).tp
    generator = torch.Generator().manual_seed(7)
    hidden, weight = torch.randn(2, 8, 16, generator=generator), torch.randn(24, 16, generator=generator)
    bias, labels = torch.randn(24, generator=generator), torch.randint(0, 24, (2, 8), generator=generator)
    labels[0, 3] = IGNORE_INDEX
    whole = [value.clone().requires_grad_() for value in (hidden, weight, bias)]
    logits = whole[0] @ whole[1].T + whole[2]
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    expected = expected + z_loss * (logits.logsumexp(-1).square() * (labels != IGNORE_INDEX)).sum()
    expected.backward()

    def rows(value: Tensor) -> Tensor:
        return value.chunk(size)[tp.rank].clone()

    def tokens(value: Tensor) -> Tensor:
        return value.chunk(size, dim=1)[tp.rank].clone() if sequence_parallel else value.clone()

    own = [tokens(hidden).requires_grad_(), rows(weight).requires_grad_(), rows(bias).requires_grad_()]
    loss = chunked_cross_entropy(*own, labels, LossOptions(z_loss, 5, tp))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(own[0].grad, tokens(whole[0].grad), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own[1].grad, rows(whole[1].grad), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own[2].grad, rows(whole[2].grad), rtol=1e-5, atol=1e-5)
