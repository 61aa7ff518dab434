"""Attention: q, k, v `[batch, heads, seq, head_dim]` -> the same. Scores are divided by sqrt(head_dim).

Causal, unless `seen` `[batch or 1, 1, queries, keys]` says which keys each query attends to.
"""

import torch
from torch import Tensor


def reference_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """As Hugging Face's CodeGen computes it: q, k and the softmax in fp32."""
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5  # [batch, heads, queries, keys]
    if seen is None:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[-2] - q.shape[-2])
    return scores.masked_fill(~seen, float("-inf")).softmax(dim=-1).to(v.dtype) @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """torch's fused attention (FlashAttention on GPUs); never stores the scores."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
