"""LayerNorm in Triton: a row a program forward; backward, each program goes through rows and sums their part of the
gradients of weight and bias in registers. Arithmetic is fp32 whatever the tensors are.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

CHANNELS_OF_THREAD = 8  # one load of 16 bytes in bf16
THREADS_OF_SM = 1024  # of the backward pass, on each multiprocessor
REGISTERS = 64  # of a thread, so that as many run at a time; left to itself ptxas takes 56 on an A100, and spills
CPU_PROGRAMS = 4  # where there is no GPU, for Triton's interpreter


@triton.jit  # type: ignore[untyped-decorator]
def norm_forward_kernel(x, weight, bias, y, means, deviations, d, epsilon, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """x `[rows, d]` -> y, and each row's mean and 1 / standard deviation, `[rows]` in fp32."""
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    inside = channel < d
    place = tl.cast(row, tl.int64) * d + channel
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / d
    centred = tl.where(inside, values - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / d + epsilon)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, (centred * inverse * scale + shift).to(y.dtype.element_ty), mask=inside)
    tl.store(means + row, mean)
    tl.store(deviations + row, inverse)


@triton.jit  # type: ignore[untyped-decorator]
def norm_backward_kernel(  # type: ignore[no-untyped-def]
    grad_y, x, weight, means, deviations, grad_x, grad_weight, grad_bias, rows, d, BLOCK: tl.constexpr
):
    """grad_y `[rows, d]` -> grad_x, and each program's sums, grad_weight and grad_bias `[programs, d]`."""
    channel = tl.arange(0, BLOCK)
    inside = channel < d
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    weight_sum, bias_sum = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        place = tl.cast(row, tl.int64) * d + channel
        mean, inverse = tl.load(means + row), tl.load(deviations + row)
        normed = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - mean) * inverse
        gradient = tl.load(grad_y + place, mask=inside, other=0.0).to(tl.float32)
        weight_sum += gradient * normed
        bias_sum += gradient
        scaled = gradient * scale
        along, total = tl.sum(scaled * normed, 0) / d, tl.sum(scaled, 0) / d
        result = (scaled - normed * along - total) * inverse
        tl.store(grad_x + place, result.to(grad_x.dtype.element_ty), mask=inside)
    sums = tl.program_id(0) * d + channel
    tl.store(grad_weight + sums, weight_sum, mask=inside)
    tl.store(grad_bias + sums, bias_sum, mask=inside)


def block_and_warps(d: int) -> tuple[int, int]:
    """Channels of a program's row, rounded up to a power of two, and its warps of 32 threads."""
    block = triton.next_power_of_2(d)
    return block, max(1, min(32, block // (32 * CHANNELS_OF_THREAD)))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        d = x.shape[-1]
        x, (block, warps) = x.contiguous(), block_and_warps(d)
        y, rows = torch.empty_like(x), x.numel() // d
        means, deviations = x.new_empty(2, rows, dtype=torch.float32)
        if not x.is_meta:
            norm_forward_kernel[(rows,)](x, weight, bias, y, means, deviations, d, epsilon, block, num_warps=warps)
        ctx.save_for_backward(x, weight, means, deviations)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, means, deviations = ctx.saved_tensors
        rows, d = len(means), x.shape[-1]
        block, warps = block_and_warps(d)
        programs = min(rows, _multiprocessors(x.device) * THREADS_OF_SM // (32 * warps))
        grad_x, sums = torch.empty_like(x), x.new_empty(2, programs, d, dtype=torch.float32)
        if not x.is_meta:
            norm_backward_kernel[(programs,)](
                gradients[0].contiguous(),
                x,
                weight,
                means,
                deviations,
                grad_x,
                *sums,
                rows,
                d,
                block,
                num_warps=warps,
                maxnreg=REGISTERS,
            )
        grad_weight, grad_bias = sums.sum(dim=1).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count


@torch.compiler.disable  # type: ignore[untyped-decorator]
def triton_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """LayerNorm of x `[..., d]` by weight and bias `[d]` -> the same shape and precision.

    Needs a CUDA device, or TRITON_INTERPRET=1; on meta tensors it takes memory only.
    """
    return _Norm.apply(x, weight, bias, epsilon)  # type: ignore[no-any-return, no-untyped-call]
