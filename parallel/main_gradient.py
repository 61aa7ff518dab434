"""Weight gradients added to the optimizer's fp32 sums by the product that computes them, as Megatron-LM's
`gradient_accumulation_fusion` does: none exists in the weights' precision, to be rounded, read and added.

A layer whose backward pass can do so marks its weight (`mark`); an optimizer that has such sums gives the weight one
(`attach`). Where there is none the gradient goes the usual way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MainGradient:
    """total: the fp32 sum, in the weight's shape; added: to be called whenever a micro-batch's gradient is in it."""

    total: Tensor
    added: Callable[[], None]


def mark(weight: nn.Parameter) -> nn.Parameter:
    """Say that the layer of `weight` adds to its main gradient, if it has one, and then returns no gradient."""
    weight.takes_main_gradient = True  # type: ignore[attr-defined]
    return weight


def attach(weight: nn.Parameter, total: Tensor, added: Callable[[], None]) -> bool:
    """Give `weight` a main gradient, if it is marked, and return whether it is."""
    marked: bool = getattr(weight, "takes_main_gradient", False)
    if marked:
        weight.main_gradient = MainGradient(total.view(weight.shape), added)  # type: ignore[attr-defined]
    return marked


def main_gradient(weight: Tensor) -> MainGradient | None:
    """The main gradient of `weight`; None: it has none."""
    return getattr(weight, "main_gradient", None)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`, in one operation where torch has one; total may be fp32 where a and b are not."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.ops.aten.addmm.dtype_out(total, a, b, total.dtype, out=total)
    else:
        total += a @ b
