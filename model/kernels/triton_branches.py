"""The block's middle in Triton: what `branches.reference_branches` does, with two kernels each way beside attention.

Forward, `rotate_kernel` writes rotated q and k, and `merge_forward_kernel` writes attention's output and
gelu(mlp + bias) straight into the buffer that the output product reads. Backward, `merge_backward_kernel` and
`rotate_kernel` write every gradient straight into the one of `projected`. The pre-activation is kept once, in
`projected`. Arithmetic is fp32 whatever the tensors are.

Of what a block keeps, 17 units of `[tokens, d]` (544 MiB of 350M at 8 x 2048 tokens), four are gelu(mlp + bias), which
the output product reads again for its weight's gradient. To rebuild them is to write four units more, beside the 32
that are moved here, or ten in a pass of their own: 1.4 or 3.5% of a block's time at 350M, by an H100's bandwidth. Who
needs the memory has `layout.recompute`.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from model.kernels.branches import Attention

ROWS, BLOCK = 16, 1024  # tokens and channels of one program; 128 threads load 8 channels each at a time


@triton.jit  # type: ignore[untyped-decorator]
def rotate_kernel(  # type: ignore[no-untyped-def]
    q_from, k_from, v_from, q_to, k_to, v_to, table, rows, seq, d, from_stride, to_stride, table_stride, sign,
    HEAD_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr, COPY_V: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rotate q and k, `[rows, d]` each, by `sign` times the angle of their position; COPY_V: and copy v.

    table: cosines, and `table_stride` after them sines, `[seq, ROTARY_DIM / 2]`. Strides: from row to row.
    """
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < d
    in_head = (tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)) % (HEAD_DIM // 2)  # of each pair
    rotates = in_head < ROTARY_DIM // 2
    first = tl.program_id(0) * ROWS
    for row in range(first, tl.minimum(first + ROWS, rows)):
        angle = table + (row % seq) * (ROTARY_DIM // 2) + in_head
        cos = tl.load(angle, mask=rotates, other=1.0)
        sin = tl.load(angle + table_stride, mask=rotates, other=0.0) * sign
        source = tl.cast(row, tl.int64) * from_stride + channel
        target = tl.cast(row, tl.int64) * to_stride + channel
        pairs = tl.load(q_from + source, mask=inside).to(tl.float32).reshape(BLOCK // 2, 2)
        even, odd = tl.split(pairs)
        rotated = tl.join(even * cos - odd * sin, odd * cos + even * sin).reshape(BLOCK)
        tl.store(q_to + target, rotated.to(q_to.dtype.element_ty), mask=inside)
        pairs = tl.load(k_from + source, mask=inside).to(tl.float32).reshape(BLOCK // 2, 2)
        even, odd = tl.split(pairs)
        rotated = tl.join(even * cos - odd * sin, odd * cos + even * sin).reshape(BLOCK)
        tl.store(k_to + target, rotated.to(k_to.dtype.element_ty), mask=inside)
        if COPY_V:
            tl.store(v_to + target, tl.load(v_from + source, mask=inside), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def merge_forward_kernel(  # type: ignore[no-untyped-def]
    attended, mlp, bias, out, rows, d, mlp_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """attended `[rows, d]` and gelu(mlp + bias), mlp `[rows, 4d]`, -> out `[rows, 5d]`, side by side."""
    first = tl.program_id(0) * ROWS
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    blocks = (d + BLOCK - 1) // BLOCK
    if tl.program_id(1) < blocks:
        inside = channel < d
        for row in range(first, tl.minimum(first + ROWS, rows)):
            value = tl.load(attended + tl.cast(row, tl.int64) * d + channel, mask=inside)
            tl.store(out + tl.cast(row, tl.int64) * 5 * d + channel, value, mask=inside)
    else:
        channel -= blocks * BLOCK
        inside = channel < 4 * d
        added = tl.load(bias + channel, mask=inside).to(tl.float32)
        for row in range(first, tl.minimum(first + ROWS, rows)):
            x = tl.load(mlp + tl.cast(row, tl.int64) * mlp_stride + channel, mask=inside).to(tl.float32) + added
            # gelu's tanh approximation, x (1 + tanh u) / 2, as x sigmoid(2u)
            gelu = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
            target = out + tl.cast(row, tl.int64) * 5 * d + d + channel
            tl.store(target, gelu.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def merge_backward_kernel(  # type: ignore[no-untyped-def]
    grad_out, mlp, bias, grad_mlp, grad_bias, rows, d, out_stride, mlp_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """grad_out `[rows, 4d]` -> grad_mlp, and its sum over each program's rows, grad_bias `[programs, 4d]` in fp32."""
    first = tl.program_id(0) * ROWS
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < 4 * d
    added = tl.load(bias + channel, mask=inside).to(tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for row in range(first, tl.minimum(first + ROWS, rows)):
        x = tl.load(mlp + tl.cast(row, tl.int64) * mlp_stride + channel, mask=inside).to(tl.float32) + added
        gradient = tl.load(grad_out + tl.cast(row, tl.int64) * out_stride + channel, mask=inside).to(tl.float32)
        share = 1.0 / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
        slope = share + x * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
        gradient = tl.where(inside, gradient * slope, 0.0)
        total += gradient
        target = grad_mlp + tl.cast(row, tl.int64) * mlp_stride + channel
        tl.store(target, gradient.to(grad_mlp.dtype.element_ty), mask=inside)
    tl.store(grad_bias + tl.program_id(0) * 4 * d + channel, total, mask=inside)


class _GradientBuffer:
    """The gradient of `projected`: made and filled in part by `_Merge`'s backward, completed by `_Rotate`'s."""

    value: Tensor


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, rotary: Tensor, heads: int, buffer: _GradientBuffer) -> tuple[Tensor, ...]:
        batch, seq, width = projected.shape
        d = width // 7
        rotated = projected.new_empty(2, batch, seq, d)
        parts = torch.split(projected.view(-1, width), d, dim=-1)
        _rotate((*parts[:2], parts[2]), (rotated[0], rotated[1], parts[2]), rotary, d // heads, 1.0, copy_v=False)
        ctx.save_for_backward(rotary)
        ctx.heads, ctx.buffer = heads, buffer
        q, k, v = rotated[0], rotated[1], projected[..., 2 * d : 3 * d].detach()
        return tuple(part.view(batch, seq, heads, d // heads).transpose(1, 2) for part in (q, k, v))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (rotary,) = ctx.saved_tensors
        whole = ctx.buffer.value
        del ctx.buffer.value
        d = whole.shape[-1] // 7
        flat = [gradient.transpose(1, 2).reshape(-1, d).contiguous() for gradient in gradients]
        targets = torch.split(whole.view(-1, 7 * d), d, dim=-1)[:3]
        _rotate(tuple(flat), targets, rotary, d // ctx.heads, -1.0, copy_v=True)
        return whole, None, None, None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attended: Tensor, mlp_bias: Tensor, projected: Tensor, buffer: _GradientBuffer) -> Tensor:
        batch, seq, width = projected.shape
        d = width // 7
        out = projected.new_empty(batch, seq, 5 * d)
        flat, mlp = attended.transpose(1, 2).reshape(-1, d).contiguous(), projected.view(-1, width)[:, 3 * d :]
        grid = (triton.cdiv(len(mlp), ROWS), triton.cdiv(d, BLOCK) + triton.cdiv(4 * d, BLOCK))
        if not out.is_meta:
            merge_forward_kernel[grid](flat, mlp, mlp_bias, out, len(mlp), d, width, ROWS, BLOCK)
        ctx.save_for_backward(mlp_bias, projected)
        ctx.heads, ctx.buffer = attended.shape[1], buffer
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None, None]:
        mlp_bias, projected = ctx.saved_tensors
        width = projected.shape[-1]
        d = width // 7
        grad_out = grad_out.contiguous()
        ctx.buffer.value = torch.empty_like(projected)
        mlp, grad_mlp = (whole.view(-1, width)[:, 3 * d :] for whole in (projected, ctx.buffer.value))
        grid = (triton.cdiv(len(mlp), ROWS), triton.cdiv(4 * d, BLOCK))
        sums = mlp_bias.new_empty(grid[0], 4 * d, dtype=torch.float32)
        of_mlp = grad_out.view(-1, 5 * d)[:, d:]
        if not grad_out.is_meta:
            merge_backward_kernel[grid](of_mlp, mlp, mlp_bias, grad_mlp, sums, len(mlp), d, 5 * d, width, ROWS, BLOCK)
        of_attended = grad_out[..., :d].view(*grad_out.shape[:2], ctx.heads, d // ctx.heads).transpose(1, 2)
        return of_attended, sums.sum(dim=0).to(mlp_bias.dtype), None, None


def _rotate(
    sources: tuple[Tensor, ...], targets: tuple[Tensor, ...], rotary: Tensor, head_dim: int, sign: float, copy_v: bool
) -> None:  # fmt: skip
    """Launch `rotate_kernel` on q, k and v, `[rows, d]` or `[batch, seq, d]` each, with one stride among each three.

    rotary: `[2, period, rotary_dim / 2]`; row r takes its angles from `r % period`.
    """
    rows, d = sources[0].shape[0], sources[0].shape[-1]
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(d, BLOCK))
    strides = sources[0].stride(-2), targets[0].stride(-2), rotary.stride(0)
    period, rotary_dim = rotary.shape[1], 2 * rotary.shape[2]
    if not rotary.is_meta:
        rotate_kernel[grid](
            *sources, *targets, rotary, rows, period, d, *strides, sign, head_dim, rotary_dim, copy_v, ROWS, BLOCK
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def triton_branches(
    projected: Tensor,
    mlp_bias: Tensor,
    rotary: Tensor,
    heads: int,
    attention: Attention,
    attention_mask: Any = None,
) -> Tensor:
    """As `reference_branches`. Needs a CUDA device, or TRITON_INTERPRET=1; on meta tensors it takes memory only."""
    table = (
        rotary.flatten(1, -2) if rotary.dim() > 3 else rotary[:, : projected.shape[1]]
    )  # of all rows, or of a sample's
    projected, buffer = projected.contiguous(), _GradientBuffer()
    q, k, v = _Rotate.apply(projected, table.contiguous(), heads, buffer)  # type: ignore[no-untyped-call]
    attended = attention(q, k, v, attention_mask)
    # detached: its gradient is in the buffer, and _Rotate's backward, which comes later, returns all of it
    return _Merge.apply(attended, mlp_bias, projected.detach(), buffer)  # type: ignore[no-any-return, no-untyped-call]
