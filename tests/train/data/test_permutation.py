"""A permutation without a table: each value once, other keys other orders, no time or memory for any size."""

import tracemalloc

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.permutation import Permutation


@given(st.integers(1, 300), st.integers(0, 2**63), st.integers(0, 5))
def test_each_value_once(size, seed, epoch):
    order = Permutation(size, seed, epoch)
    assert sorted(order[index] for index in range(size)) == list(range(size))


@given(st.integers(1, 2**40), st.lists(st.integers(0, 2**63), min_size=1, max_size=3), st.lists(st.integers(0, 2**40)))
def test_backwards_it_gives_the_places(size, key, places):
    order = Permutation(size, *key)
    places = [place % size for place in places]
    images = numpy.array([order[place] for place in places], numpy.int64)
    assert order.places(images).tolist() == places


def test_a_sum_of_65_bits_goes_backwards_too():
    order = Permutation(2**40, 1)
    order._keys = [2**64 - 1] * len(order._keys)
    images = numpy.array([order[place] for place in range(50)])
    assert order.places(images).tolist() == list(range(50))


def test_a_billion_samples_are_shuffled_in_no_memory():
    tracemalloc.start()
    order = Permutation(10**9, 1, 0)
    found = [order[index] for index in range(0, 10**9, 10**5)]
    found += [order[10**9 - 1]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    assert len(set(found)) == 10_001 and min(found) >= 0 and max(found) < 10**9
    tenths = [sum(value // 10**8 == tenth for value in found) for tenth in range(10)]
    assert all(880 < count < 1120 for count in tenths), "10,000 draws: four standard deviations are 120"
    with pytest.raises(IndexError):
        order[10**9]


@pytest.mark.parametrize("size", [64, 100, 1000])
def test_images_do_not_follow_from_places(size):
    """Over 200 keys, the image of a place and the step to its neighbour's are spread evenly (chi-squared)."""
    for place in (0, size // 2, size - 2):
        eighths, steps = [0] * 8, [0] * 8
        for key in range(400):
            order = Permutation(size, key)
            first, second = order[place], order[place + 1]
            eighths[first * 8 // size] += 1
            steps[(second - first) % size * 8 // size] += 1
        for counts in (eighths, steps):
            assert sum((count - 50) ** 2 / 50 for count in counts) < 30, (place, counts)
