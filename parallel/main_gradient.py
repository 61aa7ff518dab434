"""Weight gradients added to the optimizer's fp32 sums by the product that computes them, as Megatron-LM's
`gradient_accumulation_fusion` does: none exists in the weights' precision, to be rounded, read and added.

A layer whose backward pass can do so marks its weight (`mark`); an optimizer that has such sums gives the weight one
(`attach`). Where there is none the gradient goes the usual way. The first gradient of a step is written over what was
there, so that nobody fills the sums with zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CPU_ROWS = 4096  # of a sum, that a product on a CPU computes at a time: 8 MiB of bf16 at a width of 1024


@dataclass
class MainGradient:
    """total: the fp32 sum, in the weight's shape; tell: called whenever a micro-batch's gradient is in it; empty: what
    is in `total` does not count, and the next gradient is written over it; cast: what a layer keeps of the weight in
    another precision for the micro-batches of a step."""

    total: Tensor
    tell: Callable[[], None]
    empty: bool = True
    cast: Any = None

    def end_step(self) -> None:
        """To be called once the gradients of a step are summed, before the weight changes."""
        self.empty, self.cast = True, None

    def added(self) -> None:
        """To be called whenever a micro-batch's gradient is in `total`."""
        self.empty = False
        self.tell()

    def add(self, gradient: Tensor, scale: Tensor | None = None) -> None:
        """Add a gradient that was computed by itself, in any precision; an fp32 one times `scale`, if given."""
        if scale is not None and self.empty:
            torch.mul(gradient, scale, out=self.total)
        elif scale is not None:
            self.total.addcmul_(gradient, scale)
        else:
            write(self.total, gradient, self.empty)
        self.added()


def mark(weight: nn.Parameter) -> nn.Parameter:
    """Say that the layer of `weight` adds to its main gradient, if it has one, and then returns no gradient."""
    weight.takes_main_gradient = True  # type: ignore[attr-defined]
    return weight


def attach(weight: nn.Parameter, total: Tensor, tell: Callable[[], None]) -> MainGradient:
    """The main gradient of `weight`, which its layer adds to if the weight is marked, and the caller otherwise."""
    main = MainGradient(total.view(weight.shape), tell)
    if getattr(weight, "takes_main_gradient", False):
        weight.main_gradient = main  # type: ignore[attr-defined]
    return main


def main_gradient(weight: Tensor) -> MainGradient | None:
    """The main gradient that the layer of `weight` adds to; None: it has none."""
    return getattr(weight, "main_gradient", None)


def write(total: Tensor, gradient: Tensor, empty: bool) -> None:
    """`total += gradient`, or over it where what is in it does not count; in total's precision."""
    if empty:
        total.copy_(gradient)
    else:
        total.add_(gradient)


def add_product(total: Tensor, a: Tensor, b: Tensor, empty: bool = False) -> None:
    """`total += a @ b`, in one operation where torch has one; total may be fp32 where a and b are not.

    empty: what is in total does not count, be it nan.
    """
    kept = 0 if empty else 1
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=kept)
    elif total.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, a, b, total.dtype, beta=kept, out=total)
    else:  # a CPU has no such product: by pieces, which are read again before they leave its cache
        for part, rows in zip(torch.split(total, CPU_ROWS), torch.split(a, CPU_ROWS), strict=True):
            write(part, rows @ b, empty)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """`nn.functional.embedding`; the gradients of the rows are added to the weight's main gradient, if it has one.

    They are added in fp32, and no gradient as large as the weight is made for the few rows that a micro-batch names.
    """
    if main_gradient(weight) is None:
        return nn.functional.embedding(ids, weight)
    return _Embedding.apply(ids, weight)  # type: ignore[no-any-return, no-untyped-call]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.main_gradient = main_gradient(weight)
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        (ids,), main = ctx.saved_tensors, ctx.main_gradient
        if main.empty:
            main.total.zero_()
        rows, gradient = ids.flatten(), gradients[0].flatten(0, -2).to(main.total.dtype)
        if main.total.is_cuda:  # sorted by rows: index_add_ would add in another order each time
            main.total.index_put_((rows,), gradient, accumulate=True)
        else:
            main.total.index_add_(0, rows, gradient)
        main.added()
        return None, None
