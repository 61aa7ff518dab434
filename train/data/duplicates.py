"""Rows that stood before, found in bounded memory: the keys are compared one range of values at a time."""

from collections.abc import Callable, Sequence

import numpy
from numpy.typing import NDArray

PARTITION_ROWS = 1 << 22  # keys that are sorted together

Keys = NDArray[numpy.uint64]


def repeated(parts: Sequence[tuple[int, Callable[[], Keys]]]) -> list[NDArray[numpy.bool_]]:
    """For each part, which of its rows equal one before it, in that part or an earlier one.

    parts: (number of rows, function that reads their keys, `[rows, columns]`), which is called once a range of values.
    Memory: a bit more than `PARTITION_ROWS` keys, and a byte a row for the answer.
    """
    borders = numpy.cumsum([0, *(rows for rows, _ in parts)])
    answer = numpy.zeros(borders[-1], numpy.bool_)
    partitions = -(-int(borders[-1]) // PARTITION_ROWS)
    for partition in range(partitions):
        keys, places = [], []
        for first, (_, read) in zip(borders, parts, strict=False):
            part = read().astype(numpy.uint64)
            high = part[:, 0] >> numpy.uint64(32)
            inside = numpy.flatnonzero((high * numpy.uint64(partitions) >> numpy.uint64(32)) == partition)
            keys.append(part[inside])
            places.append(first + inside)
        ordered = numpy.concatenate(keys)
        order = numpy.lexsort(ordered.T[::-1])  # stable: of equal keys the first stays the first
        ordered = ordered[order]
        again = order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)]
        answer[numpy.concatenate(places)[again]] = True
    return numpy.split(answer, borders[1:-1])
