"""Attention within documents that stand side by side in a sample: block-diagonal and causal.

positions `[batch, seq]`, int32: each token's position in its document, so that a 0 begins a document, as Hugging Face's
`position_ids` of packed sequences. All blocks share what `masked_documents` or `flex_documents` makes of a
micro-batch's.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention


class Documents(NamedTuple):
    """The documents of a micro-batch. positions: `[batch, seq]`; mask: which keys each query attends to."""

    positions: Tensor
    mask: Tensor | BlockMask


def masked_documents(positions: Tensor) -> Documents:
    """For attention forms that take a bool mask, here `[batch, 1, seq, seq]`."""
    number = _numbers(positions)
    same = number.unsqueeze(-1) == number.unsqueeze(-2)  # [batch, seq, seq]
    return Documents(positions, same.tril().unsqueeze(1))


def flex_documents(positions: Tensor) -> Documents:
    """For `flex_attention`: blocks of the scores without a pair of one document are never computed."""
    number = _numbers(positions)
    batch, seq = positions.shape

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (number[row, query] == number[row, key])

    return Documents(positions, create_block_mask(visible, batch, None, seq, seq, device=positions.device))


def flex_attention(q: Tensor, k: Tensor, v: Tensor, attention_mask: BlockMask) -> Tensor:
    """q, k, v `[batch, heads, seq, head_dim]` -> the same, under the mask of `flex_documents` (arXiv 2412.05496).

    Compiled on GPUs, where it never stores the scores. Elsewhere torch has no backward pass of the compiled form.
    """
    form: Any = _compiled_flex_attention() if q.is_cuda else torch_flex_attention
    return form(q, k, v, block_mask=attention_mask)  # type: ignore[no-any-return]


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(torch_flex_attention, dynamic=False)


def _numbers(positions: Tensor) -> Tensor:
    """The number of each token's document in its sample, `[batch, seq]`."""
    return (positions == 0).cumsum(-1)
