"""Durations as a person reads them."""

import pytest

from conf.duration import format_duration

HOUR = 3600


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0m00s"),
        (65.9, "1m05s"),
        (HOUR - 1, "59m59s"),
        (3 * HOUR + 20 * 60, "3h20m"),
        (48 * HOUR - 1, "47h59m"),
        (52 * HOUR, "2d04h"),
    ],
)
def test_a_duration_has_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown
