"""Values cross between a harness and its program as they are, and nothing else does."""

import json
import math
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy
import pytest

from train.evaluate.channel import Opaque, decode, encode


def crossed(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**3000),
        0.1,
        math.inf,
        "\ud800 \u00e9\n",
        b"\x00\xff",
        bytearray(b"a"),
        1 + 2j,
        range(1, 9, 2),
        Decimal("0.10"),
        Fraction(1, 3),
        [1, (2, [3.0]), {"a": {4, 5}}, frozenset({6})],
        {(1, 2): None, 3: {"list": [1]}, "dict": []},
    ],
)
def test_a_value_crosses_with_its_type(value: Any) -> None:
    back = crossed(value)
    assert back == value and type(back) is type(value) and repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        numpy.float64(0.1),
        numpy.bool_(True),
        numpy.str_("a"),
        numpy.arange(6).reshape(2, 3),
        numpy.array(["a", "bc"]),
        numpy.array([[1, None], ["a", 2.5]], dtype=object),
        numpy.datetime64("2020-01-02"),
        numpy.zeros((0, 3), dtype=numpy.float16),
    ],
)
def test_numpy_crosses_with_type_and_shape(value: Any) -> None:
    back = crossed(value)
    assert type(back) is type(value) and back.dtype == value.dtype and numpy.array_equal(back, value)


def test_subclasses_become_what_they_extend() -> None:
    point, level = namedtuple("point", "x y"), IntEnum("level", "low high")
    assert crossed(point(1, 2)) == (1, 2) and type(crossed(point(1, 2))) is tuple
    assert crossed(Counter("aab")) == {"a": 2, "b": 1} and type(crossed(OrderedDict())) is dict
    assert type(crossed(level.high)) is int


def test_what_is_unknown_equals_nothing() -> None:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

    back = crossed(Anything())
    assert isinstance(back, Opaque) and back.kind == "Anything" and back != 5 and back != crossed(Anything())
    assert isinstance(crossed(i for i in range(3)), Opaque)


@pytest.mark.parametrize("data", [{"array": ["|O", [1], "00" * 8, False]}, {"array": ["<i8", [9], "00", False]}, {}])
def test_data_that_are_no_value_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode(data)
