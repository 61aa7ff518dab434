"""The block's products in fp8 (E4M3 and E5M2: arXiv 2209.05433): operands scaled per tensor, sums in fp32.

A scale is the largest power of two that keeps the operand's largest value in range. A power of two changes no digit, so
the slices of a tensor-parallel rank, which have scales of their own, are rounded as the whole matrix is. Weights and
activations are in E4M3; gradients need more range and are in E5M2, as in Transformer Engine. Kept for the backward pass
is the layer's input in fp8. On a CPU products are emulated.

A weight is cast in the forward pass and, transposed, in the backward pass of each micro-batch; `KEPT` casts it both
ways once a step, where it has a main gradient to keep them with, for two bytes a weight.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from parallel.main_gradient import main_gradient, write
from parallel.tensor_parallel import ColumnLinear, Products, RowLinear

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


class Operand(NamedTuple):
    """A matrix `[m, n]` in fp8: rows `[m, n]`, columns `[n, m]`, either empty if not needed; inverse: of the scale."""

    rows: Tensor
    columns: Tensor
    inverse: Tensor


def to_fp8(x: Tensor, kind: torch.dtype, rows: bool = True, columns: bool = True) -> Operand:
    """x `[m, n]` in fp8. A value that is not finite becomes nan, or makes the others nan."""
    if x.device.type == "cuda":
        from model.kernels.triton_fp8 import triton_cast

        return Operand(*triton_cast(x, kind, rows, columns))
    if x.is_meta:  # as much memory as the cast takes on a GPU
        as_rows, as_columns = (size if wanted else (0,) for size, wanted in ((x.shape, rows), (x.t().shape, columns)))
        return Operand(x.new_empty(as_rows, dtype=kind), x.new_empty(as_columns, dtype=kind), x.new_empty(()).float())
    largest = x.abs().amax().float().clamp(min=2.0**-100)
    scale = torch.exp2(torch.floor(torch.log2(torch.finfo(kind).max / largest)))
    low = (x.float() * scale).to(kind)
    empty = low.new_empty(0)
    return Operand(low if rows else empty, low.t().contiguous() if columns else empty, 1.0 / scale)


def multiply(
    a: Tensor, a_inverse: Tensor, b: Tensor, b_inverse: Tensor, dtype: torch.dtype, fast: bool,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`a @ b.T + bias`, a `[m, k]`, b `[n, k]`; fast: sums may be kept in fewer digits than fp32's for a while."""
    if a.device.type == "cpu":
        product = a.float() @ b.float().t() * (a_inverse * b_inverse)
        return (product if bias is None else product + bias).to(dtype)
    return torch._scaled_mm(a, b.t(), a_inverse, b_inverse, bias=bias, out_dtype=dtype, use_fast_accum=fast)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    return _forward_by(to_fp8(weight, E4M3, columns=False), x, bias)


def _forward_by(of_weight: Operand, x: Tensor, bias: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    of_x = to_fp8(x, E4M3)
    y = multiply(of_x.rows, of_x.inverse, of_weight.rows, of_weight.inverse, x.dtype, fast=True, bias=bias)
    return y, (of_x.columns, of_x.inverse)


def _keep(x: Tensor) -> tuple[Tensor, ...]:
    _, columns, inverse = to_fp8(x, E4M3, rows=False)
    return columns, inverse


def _gradient(gradient: Tensor) -> tuple[Tensor, ...]:
    return to_fp8(gradient, E5M2)


def _of_input(gradient: tuple[Tensor, ...], weight: Tensor) -> Tensor:
    return _of_input_by(to_fp8(weight, E4M3, rows=False), gradient, weight.dtype)


def _of_input_by(of_weight: Operand, gradient: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    rows, _, inverse = gradient
    return multiply(rows, inverse, of_weight.columns, of_weight.inverse, dtype, fast=False)


def _kept(weight: Tensor, rows: bool) -> Operand:
    """The weight in fp8, cast both ways at its first use in a step; without a main gradient as rows or as columns."""
    main = main_gradient(weight)
    if main is None:
        return to_fp8(weight, E4M3, rows=rows, columns=not rows)
    if main.cast is None:
        main.cast = to_fp8(weight, E4M3)
    return main.cast  # type: ignore[no-any-return]


def _of_weight(gradient: tuple[Tensor, ...], kept: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    (_, columns, inverse), (of_x, x_inverse) = gradient, kept
    return multiply(columns, inverse, of_x, x_inverse, dtype, fast=False)


def _add_of_weight(total: Tensor, gradient: tuple[Tensor, ...], kept: tuple[Tensor, ...], empty: bool) -> None:
    # torch has no product in fp8 that adds to its result
    write(total, _of_weight(gradient, kept, torch.bfloat16), empty)


FP8 = Products(_forward, _keep, _gradient, _of_input, _of_weight, _add_of_weight)
KEPT = FP8._replace(
    forward=lambda x, weight, bias: _forward_by(_kept(weight, rows=True), x, bias),
    of_input=lambda gradient, weight: _of_input_by(_kept(weight, rows=False), gradient, weight.dtype),
    accumulates=True,
)


def kept_bytes(layer: nn.Module) -> int:
    """Bytes of what `KEPT` keeps of the weights of `layer`."""
    products = (part for part in layer.modules() if isinstance(part, ColumnLinear | RowLinear))
    return sum(2 * part.weight.numel() for part in products if part.products is KEPT)
