"""The block's products in fp8 (E4M3 and E5M2: arXiv 2209.05433): operands scaled per tensor, sums in fp32.

A scale is the largest power of two that keeps the operand's largest value in range. A power of two changes no digit, so
the slices of a tensor-parallel rank, which have scales of their own, are rounded as the whole matrix is. Weights and
activations are in fp8; gradients need more range and are in E5M2, as in Transformer Engine.
"""

import torch
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def fp8_product(a: Tensor, b: Tensor, gradient: bool) -> Tensor:
    """`a @ b.T` in a's precision; a `[m, k]`, b `[n, k]`; gradient: whether a is one. Emulated in fp32 on a CPU."""
    left, left_inverse = to_fp8(a, E5M2 if gradient else E4M3)
    right, right_inverse = to_fp8(b, E4M3)
    if a.device.type == "cpu":
        return (left.float() @ right.float().t() * (left_inverse * right_inverse)).to(a.dtype)
    fast = not gradient  # sums of the forward pass may be kept in fewer than fp32's digits
    return torch._scaled_mm(
        left.contiguous(), right.contiguous().t(), left_inverse, right_inverse, out_dtype=a.dtype, use_fast_accum=fast
    )


def to_fp8(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in fp8 and what to multiply it by to get x back, a scalar in fp32. A value that is not finite makes it nan."""
    largest = x.abs().amax().float().clamp(min=2.0**-100)
    scale = torch.exp2(torch.floor(torch.log2(torch.finfo(kind).max / largest)))
    return (x.float() * scale).to(kind), 1.0 / scale
