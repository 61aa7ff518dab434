"""More rows for the embedding and the head: the new ones are the mean of those that stand for tokens.

A new row's logit is then the mean of the others', which is never the largest, and training can raise it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from model.build import ALONE
from model.weights import NO_SHARDS, Layer, Shards, Weights, memory_reader
from parallel.mesh import TensorParallelGroup


def with_rows(name: str, value: Tensor, rows: int, known: int | None = None) -> Tensor:
    """A tensor of the embedding or the head, `[vocab, ...]`, cut to its first `known` rows and padded to `rows`.

    known: all by default, and `rows` at most. What has no row for each token, the head's norm, stays as it is.
    """
    if name.startswith("norm."):
        return value
    kept = value[: min(rows, len(value) if known is None else known)]
    if len(kept) == rows:
        return kept
    mean = kept.mean(dim=0, keepdim=True, dtype=torch.float32).to(value.dtype)
    return torch.cat([kept, mean.expand(rows - len(kept), *value.shape[1:])])


def grown(weights: Weights, rows: int, known: int) -> Weights:
    """`weights` with `rows` of the vocabulary, of which those from `known` on are the mean of the others.

    known: ids of the tokenizer that they were trained with.
    """
    ends = (0, weights.model.n_layer + 1)

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        if index not in ends:
            return weights.read(index, shards, tp)
        layer = {name: with_rows(name, value, rows, known) for name, value in weights.read(index).items()}
        return memory_reader([layer])(0, shards, tp)

    return replace(weights, model=replace(weights.model, vocab_size=rows), read=read)
