"""A random permutation as a function: no table, so that a trillion tokens are shuffled in no time and no memory.

A Feistel network over the smallest power of two that holds the range, walked until the image is inside of it (Black and
Rogaway 2002, "Ciphers with arbitrary finite domains"). Shuffling is all it is for: it keeps no secret.
"""

import numpy

ROUNDS = 8
WORD = (1 << 64) - 1


class Permutation:
    """A permutation of range(size), drawn by `key`. Memory: a few numbers, whatever the size."""

    def __init__(self, size: int, *key: int) -> None:
        self._size = size
        bits = max(2, (size - 1).bit_length())
        self._low_bits = bits // 2
        self._low, self._high = (1 << self._low_bits) - 1, (1 << (bits - self._low_bits)) - 1
        self._keys = [int(one) for one in numpy.random.SeedSequence(key).generate_state(ROUNDS, numpy.uint64)]

    def __getitem__(self, index: int) -> int:
        """The image of `index`. Errors: `IndexError` outside of the range."""
        if not 0 <= index < self._size:
            raise IndexError(f"{index} is not in range({self._size})")
        while True:  # less than two rounds on average
            index = self._encrypt(index)
            if index < self._size:
                return index

    def _encrypt(self, value: int) -> int:
        low, high = value & self._low, value >> self._low_bits
        for at in range(0, ROUNDS, 2):
            high ^= _mix(low + self._keys[at]) & self._high
            low ^= _mix(high + self._keys[at + 1]) & self._low
        return high << self._low_bits | low


def _mix(value: int) -> int:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & WORD
    return value ^ value >> 31
