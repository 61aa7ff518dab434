"""Numbers with a unit, as people read them."""

PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
TIMES = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def si(value: float, digits: int = 4) -> str:
    """`value` with a prefix of the SI: 1234567 is 1.235M."""
    for size, prefix in PREFIXES:
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def time_unit(longest_seconds: float) -> tuple[float, str]:
    """The unit in which a time of so many seconds is read: its length in seconds, and its name."""
    return next((size, name) for least, size, name in TIMES if longest_seconds >= least)
