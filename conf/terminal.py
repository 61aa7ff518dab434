"""Standard output for tables."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 10_000  # columns of a table that nobody looks at in a terminal


def table_console() -> "Console":
    """A console as wide as the terminal; in a pipe or a file, whatever COLUMNS says, a row of a table is one line."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDEST)
