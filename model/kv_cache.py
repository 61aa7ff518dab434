"""The KV cache of decoding: keys and values of the tokens so far, so that a new token is one token's work."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DecodePositions:
    """Positions of the tokens of one forward pass, `[batch or 1, seq]`, all below `kv_length`."""

    positions: Tensor
    kv_length: int

    def attention_mask(self) -> Tensor:
        """True where a token attends to a cached one: itself and those before, `[batch or 1, 1, seq, kv_length]`."""
        columns = torch.arange(self.kv_length, device=self.positions.device)
        return (columns <= self.positions.unsqueeze(-1)).unsqueeze(1)


class KVCache:
    """Keys and values of one block, `[batch, heads, capacity, head_dim]`, allocated once.

    A token's key and value are stored at its position. So prompts of different lengths are padded on the right and
    positions are not shifted: the mask hides a row's padding until the row's own tokens overwrite it.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # zeros: masked values must be finite, or 0 * inf
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def update(self, k: Tensor, v: Tensor, positions: DecodePositions) -> tuple[Tensor, Tensor]:
        """Store keys and values of new tokens, `[batch, heads, seq, head_dim]`, at their positions.

        Returns all keys and values up to `kv_length`, `[batch, heads, kv_length, head_dim]`.
        """
        rows = torch.arange(len(k), device=k.device).unsqueeze(-1)
        for cached, new in ((self.keys, k), (self.values, v)):
            cached.transpose(1, 2)[rows, positions.positions] = new.transpose(1, 2)
        return self.keys[:, :, : positions.kv_length], self.values[:, :, : positions.kv_length]

    def select_rows(self, rows: Tensor) -> None:
        """Keep `rows` `[new batch]` of the batch, in that order; a row may be named several times."""
        self.keys, self.values = self.keys[rows], self.values[rows]
