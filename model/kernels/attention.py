"""Attention: q, k, v `[batch, heads, seq, head_dim]` -> the same. Scores are divided by sqrt(head_dim).

Causal, unless `attention_mask` (bool, `[batch or 1, 1, queries, keys]`) says which keys each query attends to.
"""

import torch
from torch import Tensor


def reference_attention(q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """As Hugging Face's CodeGen computes it: q, k and the softmax in fp32."""
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5  # [batch, heads, queries, keys]
    if attention_mask is None:
        every = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        attention_mask = every.tril(k.shape[-2] - q.shape[-2])
    probabilities: Tensor = scores.masked_fill(~attention_mask, float("-inf")).softmax(dim=-1).to(v.dtype)
    return probabilities @ v


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """torch's fused attention (FlashAttention on GPUs); never stores the scores."""
    if q.is_meta and attention_mask is None:  # for meta tensors torch would choose a form that stores the scores
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, is_causal=True)[0]  # type: ignore[no-any-return]
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=attention_mask, is_causal=attention_mask is None
    )
