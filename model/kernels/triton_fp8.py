"""A matrix in fp8 as products on Hopper read it: rows, and columns laid out as rows, in one pass over the matrix."""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

TILE = 128  # rows and columns of one program
WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def cast_kernel(  # type: ignore[no-untyped-def]
    x, largest, rows_to, columns_to, inverse, rows, columns, limit,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """x `[rows, columns]` times the largest power of two that keeps `largest` within `limit` -> fp8.

    ROWS: to rows_to `[rows, columns]`; COLUMNS: to columns_to `[columns, rows]`; inverse: 1 / the power.
    """
    most = tl.maximum(tl.load(largest).to(tl.float32), 7.888609052210118e-31)  # 2^-100
    exponent = tl.floor(tl.log2(limit / most))
    scale = tl.exp2(exponent)
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = tl.cast(row, tl.int64)[:, None] * columns + column[None, :]
    low = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * scale).to(rows_to.dtype.element_ty)
    if ROWS:
        tl.store(rows_to + place, low, mask=inside)
    if COLUMNS:
        turned = tl.cast(column, tl.int64)[:, None] * rows + row[None, :]
        tl.store(columns_to + turned, tl.trans(low), mask=tl.trans(inside))
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, tl.exp2(-exponent))


def triton_cast(x: Tensor, kind: torch.dtype, rows: bool, columns: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x `[rows, columns]` in fp8, the same transposed, and what to multiply by; a form not asked for is empty."""
    x = x.contiguous()
    height, width = x.shape
    as_rows = torch.empty(x.shape if rows else (0,), dtype=kind, device=x.device)
    as_columns = torch.empty((width, height) if columns else (0,), dtype=kind, device=x.device)
    inverse = torch.empty((), device=x.device)
    largest = torch.linalg.vector_norm(x, float("inf"))
    grid = (triton.cdiv(height, TILE), triton.cdiv(width, TILE))
    limit = torch.finfo(kind).max
    cast_kernel[grid](
        x, largest, as_rows, as_columns, inverse, height, width, limit, rows, columns, TILE, num_warps=WARPS
    )
    return as_rows, as_columns, inverse
