"""How durations are shown."""


def format_duration(seconds: float) -> str:
    """`1m05s`, `3h20m`, or from two days on `2d04h`."""
    total = int(seconds)
    hours, minutes = total // 3600, total % 3600 // 60
    if hours >= 48:
        return f"{hours // 24}d{hours % 24:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{total % 60:02d}s"
