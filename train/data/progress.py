"""Progress bar of data preparation, shown on a terminal only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class UpdateProgress(Protocol):
    """Sets a progress bar."""

    def __call__(self, done_bytes: int, documents: int, tokens: int | None = None) -> None:
        """Show bytes of UTF-8 text, documents and, unless None, tokens processed so far."""
        ...


@contextmanager
def progress_bar(title: str, total_bytes: int | None) -> Iterator[UpdateProgress]:
    """A progress bar in bytes of text, indeterminate if `total_bytes` is None; yields its update function."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(), transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(title, total=total_bytes, state="")

        def update(done_bytes: int, documents: int, tokens: int | None = None) -> None:
            counted = "" if tokens is None else f", {tokens:,} tokens"
            progress.update(
                task, completed=done_bytes, state=f"{documents:,} documents, {done_bytes / 1e6:.1f} MB{counted}"
            )

        yield update
