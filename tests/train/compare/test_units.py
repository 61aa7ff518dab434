"""SI prefixes and units of time."""

from train.compare.units import format_si, time_unit


def test_numbers_have_prefixes_and_times_units() -> None:
    assert [format_si(value) for value in (0, 12, 1500, 999999, 2.5e12, 3.1e21)] == [
        "0",
        "12",
        "1.5k",
        "1M",
        "2.5T",
        "3.1Z",
    ]
    assert [time_unit(seconds)[1] for seconds in (5, 600, 9000, 1e6)] == ["seconds", "minutes", "hours", "days"]


def test_digits_are_those_asked_for_and_rounding_moves_to_the_next_prefix() -> None:
    assert [format_si(value, 3) for value in (1234567, -1234567, 999.9, 999949)] == ["1.23M", "-1.23M", "1k", "1M"]


def test_a_time_unit_begins_at_two_of_it() -> None:
    assert [time_unit(seconds) for seconds in (119, 120, 7199, 7200)] == [
        (1, "seconds"),
        (60, "minutes"),
        (60, "minutes"),
        (3600, "hours"),
    ]
