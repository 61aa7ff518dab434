import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.schema import FiltersConfig
from train.data.filters import ValidationSelection, drop_reason, is_held_out, text_sha256

FILTERS = FiltersConfig(average_line_length=100, longest_line_length=1000, digit_fraction=0.9)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 99 + "\n", None),
        ("x" * 100 + "\n", "average line length"),
        ("x" * 1000 + "\n" + "y\n" * 20, None),
        ("x" * 1001 + "\n" + "y\n" * 20, "longest line"),
        ("0f" * 45 + "\n" + "x" * 8, "digits"),
        ("0f" * 45 + "\n" + "x" * 9, None),
        ("0f" * 45 + "\n" + "é" * 9, None),
        ("DEAD\nBEEF\n" * 10, None),
        ("deadbeef" * 10, "digits"),
        ("def f():\r\n    return 1\r\n", None),
    ],
)
def test_filters_at_their_bounds(text, reason):
    assert drop_reason(text, FILTERS) == reason


def test_the_text_hash_is_sha256_of_the_utf8_text():
    assert text_sha256("é") == hashlib.sha256("é".encode()).digest()


def test_the_split_takes_the_fraction_and_never_moves():
    hashes = [text_sha256(str(number)) for number in range(20_000)]
    held_out = [sha256 for sha256 in hashes if is_held_out(sha256, 0.02)]
    assert 0.017 < len(held_out) / len(hashes) < 0.023
    assert set(held_out) <= {sha256 for sha256 in hashes if is_held_out(sha256, 0.03)}
    assert not is_held_out(b"\x80" + bytes(31), 0.5)
    assert is_held_out(b"\x7f" + b"\xff" * 31, 0.5)


def selected(documents, max_bytes):
    selection = ValidationSelection(max_bytes)
    for sha256, size in documents:
        selection.add(sha256, size)
    return selection.sha256s()


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(0, 150), st.integers())
def test_the_validation_part_is_the_start_of_the_hash_order_whatever_comes_first(sizes, max_bytes, seed):
    documents = [(text_sha256(str(number)), size) for number, size in enumerate(sizes)]
    expected, total = set(), 0
    for sha256, size in sorted(documents):
        if size > max_bytes:
            continue
        total += size
        if total > max_bytes:
            break
        expected.add(sha256)
    assert selected(documents, max_bytes) == expected
    random.Random(seed).shuffle(documents)
    assert selected(documents, max_bytes) == expected
