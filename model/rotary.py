"""GPT-J's rotary position embedding: channels 2i and 2i+1 of a head are rotated by `position * 10000^(-2i/rotary_dim)`.

Source: RoFormer (arXiv 2104.09864), interleaved and on the first `rotary_dim` channels only, as in CodeGen.
"""

import torch
from torch import Tensor


def rotary_table(length: int, rotary_dim: int, device: torch.device | None = None) -> Tensor:
    """Cosines and sines `[2, length, rotary_dim / 2]`, fp32."""
    channel = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device)
    position = torch.arange(length, dtype=torch.float32, device=device)
    angle = torch.outer(position, 10000.0 ** (-channel / rotary_dim))
    return torch.stack([angle.cos(), angle.sin()])


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the first channels of `x` `[batch, heads, seq, head_dim]`; the rest pass unchanged. Same shape and dtype.

    table: `rotary_table` at x's positions, `[2, seq, rotary_dim / 2]`, or `[2, batch, 1, seq, rotary_dim / 2]` where
    the sequences of the batch are at different positions.
    """
    rotary_dim = 2 * table.shape[-1]
    cos, sin = table[0], table[1]  # [..., seq, rotary_dim / 2]
    pairs = x[..., :rotary_dim].float().unflatten(-1, (-1, 2))  # type: ignore[no-untyped-call]
    even, odd = pairs.unbind(-1)  # [batch, heads, seq, rotary_dim / 2]
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([rotated.to(x.dtype), x[..., rotary_dim:]], dim=-1)
