"""The block's middle, between its two products: rotary embedding, attention, bias and GELU.

projected `[batch, seq, 7d]`, q, k, v and the MLP's side by side (d: channels of this process's heads), mlp_bias `[4d]`
-> `[batch, seq, 5d]`, attention's output and gelu(mlp + bias) side by side.

rotary: `rotary_table` from position 0 on, `[2, length, rotary_dim / 2]`, and attention is causal; or, with an
attention_mask, at the position of each token, `[2, batch, 1, seq, rotary_dim / 2]`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.rotary import apply_rotary

Attention = Callable[..., Tensor]


def reference_branches(
    projected: Tensor,
    mlp_bias: Tensor,
    rotary: Tensor,
    heads: int,
    attention: Attention,
    attention_mask: Any = None,
) -> Tensor:
    """In plain torch, which torch.compile fuses."""
    q, k, v, mlp = split_projection(projected, heads)
    table = rotary[..., : q.shape[-2], :]
    return merge_branches(attention(apply_rotary(q, table), apply_rotary(k, table), v, attention_mask), mlp, mlp_bias)


def split_projection(projected: Tensor, heads: int) -> list[Tensor]:
    """`[batch, seq, 7d]` -> q, k, v `[batch, heads, seq, head_dim]` and the MLP's `[batch, seq, 4d]`."""
    d = projected.shape[-1] // 7
    *qkv, mlp = torch.split(projected, [d, d, d, 4 * d], dim=-1)
    return [part.unflatten(-1, (heads, d // heads)).transpose(1, 2) for part in qkv] + [mlp]  # type: ignore[no-untyped-call]


def merge_branches(attended: Tensor, mlp: Tensor, mlp_bias: Tensor) -> Tensor:
    """`[batch, heads, seq, head_dim]` and `[batch, seq, 4d]` -> `[batch, seq, 5d]`."""
    activated = nn.functional.gelu(mlp + mlp_bias, approximate="tanh")
    return torch.cat([attended.transpose(1, 2).flatten(2), activated], dim=-1)
