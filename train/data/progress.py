"""Progress of long work on data: a moving bar on a terminal, nothing elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Advance(Protocol):
    """Moves a bar to the state given."""

    def __call__(self, done_bytes: int, documents: int, tokens: int | None = None) -> None:
        """Show `done_bytes` of UTF-8 text, `documents` and, where there are any yet, `tokens`."""
        ...


@contextmanager
def progress_bar(what: str, total_bytes: int | None) -> Iterator[Advance]:
    """A bar for `what`, in bytes of text, while the block runs; it pulses where `total_bytes` is unknown."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(), transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(what, total=total_bytes, state="")

        def advance(done_bytes: int, documents: int, tokens: int | None = None) -> None:
            counted = "" if tokens is None else f", {tokens:,} tokens"
            progress.update(
                task, completed=done_bytes, state=f"{documents:,} documents, {done_bytes / 1e6:.1f} MB{counted}"
            )

        yield advance
