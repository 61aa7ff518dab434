"""Formatting of numbers with SI prefixes and of times."""

SI_PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
TIME_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def format_si(value: float, digits: int = 4) -> str:
    """`value` with an SI prefix: 1234567 -> 1.235M."""
    for size, prefix in SI_PREFIXES:
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def time_unit(longest_seconds: float) -> tuple[float, str]:
    """(seconds per unit, name) of the unit to show times up to `longest_seconds` in."""
    return next((size, name) for minimum, size, name in TIME_UNITS if longest_seconds >= minimum)
