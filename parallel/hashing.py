"""Random numbers that are a function of what they are for, the same under every layout and on every device.

Torch's generators give a sequence: who draws what depends on the process, on earlier draws and on shapes. Here a number
is a hash of its key and its place, in the way of counter-based random numbers (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", SC 2011), so that a process computes those that it needs and no others.
"""

import hashlib
from typing import Any

from torch import Tensor

BITS = 31  # of a hash: products of two fit an int64, so that no device overflows
MASK = (1 << BITS) - 1


def keys_of(*what: Any) -> tuple[int, int]:
    """Two keys for what the words and numbers name."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:4], "little") & MASK, int.from_bytes(digest[4:8], "little") & MASK


def mix(x: Tensor) -> Tensor:
    """A bijection of integers below 2^31 in which each bit of the input turns about half of the output's.

    MurmurHash3's finaliser (two rounds of xor-shift and product), at 31 bits. x: int64, of any shape.
    """
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MASK
    return x ^ (x >> 16)


def hash_grid(rows: Tensor, columns: Tensor, keys: tuple[int, int]) -> Tensor:
    """A hash of `BITS` bits for each place of a matrix: rows `[r]`, columns `[c]` -> int64 `[r, c]`.

    Each row has two keys: with one, two rows whose keys are near would hold the same numbers in another order.
    """
    first, second = mix(mix(rows) ^ keys[0]).unsqueeze(-1), mix(mix(rows) ^ keys[1]).unsqueeze(-1)
    return mix(mix(first ^ columns) ^ second)
