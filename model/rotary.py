"""GPT-J's rotary position embedding: channels 2i and 2i+1 of each head turn by `position * 10000^(-2i/rotary_dim)`.

Source: RoFormer (arXiv 2104.09864), in the interleaved form and on the first `rotary_dim` channels only, as the paper.
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
    """Turn the first channels of `x` `[batch, heads, seq, head_dim]`; the rest pass. Returns x's shape and precision.

    table: the rows of x's positions from `rotary_table`, `[2, seq, rotary_dim / 2]`, or with a batch and heads before
    seq where rows stand at different positions.
    """
    rotary_dim = 2 * table.shape[-1]
    cos, sin = table[0], table[1]  # [..., seq, rotary_dim / 2]
    turned, passed = x[..., :rotary_dim], x[..., rotary_dim:]
    even, odd = turned.float().unflatten(-1, (-1, 2)).unbind(-1)  # [batch, heads, seq, rotary_dim / 2]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned.to(x.dtype), passed], dim=-1)
