"""Repeated rows are found whatever the number of ranges they are compared in."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train.data.duplicates as module
from train.data.duplicates import repeated

KEYS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=12), min_size=1, max_size=4)


@pytest.mark.parametrize("rows", [2, 5, 1 << 22])
@given(parts=KEYS)
def test_a_row_is_repeated_where_it_stood_before(parts, rows):
    scale = numpy.uint64(1 << 62)
    arrays = [numpy.array(part, numpy.uint64).reshape(-1, 2) * scale for part in parts]
    module.PARTITION_ROWS, kept = rows, module.PARTITION_ROWS
    found = repeated([(len(array), lambda array=array: array) for array in arrays])
    module.PARTITION_ROWS = kept
    seen, expected = set(), []
    for part in parts:
        expected.append([])
        for row in part:
            expected[-1].append(row in seen)
            seen.add(row)
    assert [one.tolist() for one in found] == expected
