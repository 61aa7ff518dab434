"""What decoding remembers: each block's keys and values of the tokens so far, so that a new token costs one token."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where the tokens of one pass stand: positions `[batch or 1, seq]`, all below `columns`."""

    positions: Tensor
    columns: int

    def seen(self) -> Tensor:
        """Which columns each token may attend to, `[batch or 1, 1, seq, columns]`: its own and those before it."""
        columns = torch.arange(self.columns, device=self.positions.device)
        return (columns <= self.positions.unsqueeze(-1)).unsqueeze(1)


class Past:
    """Keys and values of one block, `[batch, heads, capacity, head_dim]`, allocated once.

    A token's column is its position. So rows of different lengths need no padding on the left and no shifted
    positions: what stands behind a row's end is padding of its prompt, unseen until the row's own token replaces it.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # zeros: padding must stay finite under the mask
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def extend(self, k: Tensor, v: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens `[batch, heads, seq, head_dim]`; return those of all columns."""
        rows = torch.arange(len(k), device=k.device).unsqueeze(-1)
        for memory, new in ((self.keys, k), (self.values, v)):
            memory.transpose(1, 2)[rows, places.positions] = new.transpose(1, 2)
        return self.keys[:, :, : places.columns], self.values[:, :, : places.columns]

    def select(self, rows: Tensor) -> None:
        """Go on with `rows` `[new batch]` of the batch: fewer, or some of them several times."""
        self.keys, self.values = self.keys[rows], self.values[rows]
