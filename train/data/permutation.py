"""A random permutation as a function: no table, so that a trillion tokens are shuffled in no time and no memory.

A Feistel network over the smallest power of two that holds the range, walked until the image is inside of it (Black and
Rogaway 2002, "Ciphers with arbitrary finite domains"). Shuffling is all it is for: it keeps no secret.
"""

import numpy
from numpy.typing import NDArray

ROUNDS = 8
WORD = (1 << 64) - 1
Words = NDArray[numpy.uint64]


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

    def places(self, images: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        """The index of each image: the permutation backwards, for many at once."""
        values = images.astype(numpy.uint64)
        outside = numpy.ones(len(values), numpy.bool_)
        while outside.any():
            values[outside] = self._decrypt(values[outside])
            outside = values >= self._size
        return values.astype(numpy.int64)

    def _decrypt(self, values: Words) -> Words:
        low_bits = numpy.uint64(self._low_bits)
        low, high = values & numpy.uint64(self._low), values >> low_bits
        for at in reversed(range(0, ROUNDS, 2)):
            low ^= _mixed(high, self._keys[at + 1]) & numpy.uint64(self._low)
            high ^= _mixed(low, self._keys[at]) & numpy.uint64(self._high)
        return high << low_bits | low

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


def _mixed(values: Words, key: int) -> Words:
    """`_mix` of `values + key`, whose sum may have 65 bits."""
    total = values + numpy.uint64(key)
    carry = (total < values).astype(numpy.uint64) << numpy.uint64(34)
    total = (total ^ total >> numpy.uint64(30) ^ carry) * numpy.uint64(0xBF58476D1CE4E5B9)
    total = (total ^ total >> numpy.uint64(27)) * numpy.uint64(0x94D049BB133111EB)
    mixed: Words = total ^ total >> numpy.uint64(31)
    return mixed
