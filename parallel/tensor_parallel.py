"""Tensor parallelism: Megatron-LM's column and row layers and its vocabulary-parallel embedding (arXiv 1909.08053).

At size 1 they do what `nn.Linear` and `nn.Embedding` do. A matrix made of several parts side by side (q, k, v, fc_in)
is split part by part, so that each rank holds matching rows of all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from parallel.collectives import (
    enter_column,
    gather_sequence,
    leave_row,
    replicated,
    start_gather_sequence,
    start_leave_column,
)
from parallel.main_gradient import add_product, embedding, main_gradient, mark
from parallel.mesh import TensorParallelGroup

PACKED_ROWS = 8  # rows of a product that `pack` lays out for; the layout serves 1 to 1024 well


@dataclass(frozen=True)
class Shard:
    """How a parameter is split over tensor-parallel ranks: along `dim`, each of `parts` (lengths along it) evenly."""

    dim: int
    parts: tuple[int, ...]

    def slice(self, full: Tensor, rank: int, size: int) -> Tensor:
        """The part of `full` that process `rank` of `size` holds."""
        pieces = torch.split(full, list(self.parts), dim=self.dim)
        return torch.cat([piece.chunk(size, dim=self.dim)[rank] for piece in pieces], dim=self.dim)

    def join(self, slices: Sequence[Tensor]) -> Tensor:
        """The whole parameter, from every process's slice in rank order."""
        lengths = [part // len(slices) for part in self.parts]
        cut = [torch.split(piece, lengths, dim=self.dim) for piece in slices]
        return torch.cat([pieces[part] for part in range(len(self.parts)) for pieces in cut], dim=self.dim)


def sharded(parameter: nn.Parameter, shard: Shard, tp: TensorParallelGroup) -> nn.Parameter:
    """Mark `parameter` as this rank's slice of a parameter split as `shard`, for checkpoints and the gradient norm."""
    if tp.size > 1:
        parameter.shard = shard  # type: ignore[attr-defined]
        parameter.model_parallel = True  # type: ignore[attr-defined]  # DeepSpeed counts it on every rank
    return parameter


def shard_of(parameter: Tensor) -> Shard | None:
    """How `parameter` is split; None where every rank holds it whole."""
    return getattr(parameter, "shard", None)


AddOfWeight = Callable[[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], bool], None]
"""`Products.add_of_weight`."""


class Products(NamedTuple):
    """A linear layer's three products, in another form than torch's.

    forward: (x `[m, in]`, weight `[out, in]`, bias or None) -> `x @ weight.T + bias`, and what the weight's gradient
    needs of x, as does keep: x -> it. gradient: `[m, out]` -> as the others take it; of_input: (it, weight) ->
    `[m, in]`; of_weight: (it, what was kept, precision) -> `[out, in]`; add_of_weight: (sum, it, what was kept, empty)
    adds that to the weight's main gradient (`parallel.main_gradient`), or is written over it where that is empty.
    accumulates: whether that is done; a compiled layer cannot.
    """

    forward: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, tuple[Tensor, ...]]]
    keep: Callable[[Tensor], tuple[Tensor, ...]]
    gradient: Callable[[Tensor], tuple[Tensor, ...]]
    of_input: Callable[[tuple[Tensor, ...], Tensor], Tensor]
    of_weight: Callable[[tuple[Tensor, ...], tuple[Tensor, ...], torch.dtype], Tensor]
    add_of_weight: AddOfWeight
    accumulates: bool = False


TORCH = Products(
    forward=lambda x, weight, bias: (nn.functional.linear(x, weight, bias), (x,)),
    keep=lambda x: (x,),
    gradient=lambda gradient: (gradient,),
    of_input=lambda gradient, weight: gradient[0] @ weight,
    of_weight=lambda gradient, kept, _: gradient[0].t() @ kept[0],
    add_of_weight=lambda total, gradient, kept, empty: add_product(total, gradient[0].t(), kept[0], empty),
)

Norm = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(x `[..., d]`, weight and bias `[d]`, epsilon) -> the normed x."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, products: Products | None = None) -> Tensor:
    """`x @ weight.T + bias`, x `[..., in]`; `weight` `[out, in]` as it is or as `pack` leaves it.

    products: compute it and both of its gradients; None: torch does.
    """
    if products is not None:
        by_products: Any = _Linear.apply
        return by_products(x, weight, bias, products)  # type: ignore[no-any-return]
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return nn.functional.linear(x, weight, bias)


def _weight_gradient(ctx: Any, gradient: tuple[Tensor, ...], kept: tuple[Tensor, ...]) -> Tensor | None:
    """The weight's gradient, in its precision; None: it is in the weight's main gradient."""
    if ctx.main_gradient is None:
        of_weight: Tensor = ctx.products.of_weight(gradient, kept, ctx.dtype)
        return of_weight
    main = ctx.main_gradient
    ctx.products.add_of_weight(main.total, gradient, kept, main.empty)
    main.added()
    return None


class _Linear(torch.autograd.Function):
    """`x @ weight.T + bias` and its gradients, by one form of products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, products: Products) -> Tensor:
        y, kept = products.forward(x.flatten(0, -2), weight, bias)
        ctx.save_for_backward(weight, *kept)
        ctx.products, ctx.dtype, ctx.has_bias = products, weight.dtype, bias is not None
        ctx.main_gradient = main_gradient(weight) if products.accumulates else None
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight, *kept), products = ctx.saved_tensors, ctx.products
        flat = gradients[0].flatten(0, -2)
        gradient = products.gradient(flat)
        of_x = products.of_input(gradient, weight).view(*gradients[0].shape[:-1], -1)
        of_bias = flat.sum(dim=0) if ctx.has_bias else None
        return of_x, _weight_gradient(ctx, gradient, tuple(kept)), of_bias, None


def pack(layer: nn.Module) -> None:
    """Lay out the matrices of `layer` for products with few rows on a CPU, in place; only for inference.

    Decoding reads every matrix for a handful of rows. On [out, in] as it stands torch's fp32 product reaches a fraction
    of the memory's speed then; on oneDNN's blocks it is two to three times faster, and as fast for many rows. Does
    nothing where oneDNN has no such form: on other devices, in other precisions.
    """
    for module in layer.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, VocabEmbedding) or weight is None or weight.dim() != 2:
            continue
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)
            module.weight = nn.Parameter(packed, requires_grad=False)


class ColumnLinear(nn.Module):
    """Column-parallel linear layer, `y = x @ weight.T`: outputs are split over the group; no bias.

    x: `[batch, seq, in_features]` (seq / size tokens under sequence parallelism); y: `[batch, seq, sum(parts) / size]`.
    """

    def __init__(
        self, in_features: int, parts: tuple[int, ...], tp: TensorParallelGroup, products: Products | None = None
    ) -> None:
        super().__init__()
        self.tp = tp
        self.products = products
        self.parts = parts
        weight = nn.Parameter(torch.empty(sum(parts) // tp.size, in_features))
        self.weight = sharded(weight, Shard(0, parts), tp)
        if products is not None and products.accumulates:
            mark(self.weight)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Shapes as in the class."""
        if self.tp.tensor_parallel_overlap or self.tp.regather_sequence:
            overlapped: Any = _OverlappedColumnLinear.apply
            return overlapped(hidden_states, self.weight, self.tp, self.products or TORCH)  # type: ignore[no-any-return]
        return linear(enter_column(hidden_states, self.tp), self.weight, products=self.products)


class _OverlappedColumnLinear(torch.autograd.Function):
    """`enter_column` and the matmul in one function: backward overlaps the input gradient's collective with the weight
    gradient's matmul."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, tp: TensorParallelGroup, products: Products) -> Tensor:
        whole = gather_sequence(x, tp) if tp.sequence_parallel else x
        y, kept = products.forward(whole.flatten(0, 1), weight, None)
        ctx.save_for_backward(weight, *((x,) if tp.regather_sequence else kept))
        ctx.tp, ctx.products, ctx.dtype = tp, products, weight.dtype
        ctx.main_gradient = main_gradient(weight) if products.accumulates else None
        return y.view(*whole.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight, *kept), tp, products = ctx.saved_tensors, ctx.tp, ctx.products
        gradient = products.gradient(gradients[0].flatten(0, 1))
        gather = start_gather_sequence(kept[0], tp) if tp.regather_sequence else None
        of_whole = products.of_input(gradient, weight).view(*gradients[0].shape[:-1], -1)
        leave = start_leave_column(of_whole, tp)  # beside the gather
        of_x = tuple(kept) if gather is None else products.keep(gather().flatten(0, 1))
        if not tp.tensor_parallel_overlap:
            leave()
        of_weight = _weight_gradient(ctx, gradient, of_x)
        return leave(), of_weight, None, None


class RowLinear(nn.Module):
    """Row-parallel linear, `y = x @ weight.T + bias`: inputs are split; the bias is added once, after the sum.

    x: `[batch, seq, sum(parts) / size]`; y: `[batch, seq, out_features]` (seq / size under sequence parallelism).
    """

    def __init__(
        self, parts: tuple[int, ...], out_features: int, tp: TensorParallelGroup, products: Products | None = None
    ) -> None:
        super().__init__()
        self.tp = tp
        self.products = products
        self.parts = parts
        weight = nn.Parameter(torch.empty(out_features, sum(parts) // tp.size))
        self.weight = sharded(weight, Shard(1, parts), tp)
        if products is not None and products.accumulates:
            mark(self.weight)
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as in the class."""
        if self.tp.size == 1:
            return linear(x, self.weight, self.bias, self.products)
        partial = linear(x, self.weight, products=self.products)
        return leave_row(partial, self.tp) + replicated(self.bias, self.tp)


class VocabEmbedding(nn.Module):
    """Vocabulary-parallel embedding, split by rows over the group. ids: `[batch, seq]`; out: `[batch, seq, hidden]`."""

    def __init__(self, vocab_size: int, hidden: int, tp: TensorParallelGroup) -> None:
        super().__init__()
        self.tp = tp
        self.rows = vocab_size // tp.size
        self.weight = mark(sharded(nn.Parameter(torch.empty(self.rows, hidden)), Shard(0, (vocab_size,)), tp))

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes as in the class; under sequence parallelism out holds this process's `seq / size` tokens."""
        if self.tp.size == 1:
            return embedding(ids, self.weight)
        local = ids - self.tp.rank * self.rows
        elsewhere = (local < 0) | (local >= self.rows)
        hidden_states = embedding(local.masked_fill(elsewhere, 0), self.weight)
        return leave_row(hidden_states.masked_fill(elsewhere.unsqueeze(-1), 0.0), self.tp)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, replicated over the group; under sequence parallelism each rank normalises its own tokens.

    form: computes it; None: torch does.
    """

    def __init__(self, hidden: int, epsilon: float, tp: TensorParallelGroup, form: Norm | None = None) -> None:
        super().__init__(hidden, eps=epsilon)
        self.tp = tp
        self.form = form

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[batch, seq, hidden]` -> the same."""
        weight, bias = replicated(self.weight, self.tp), replicated(self.bias, self.tp)
        if self.form is not None:
            return self.form(hidden_states, weight, bias, self.eps)
        return nn.functional.layer_norm(hidden_states, self.normalized_shape, weight, bias, self.eps)
