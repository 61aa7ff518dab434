"""Progress of data preparation: a bar on a terminal, a line a minute elsewhere, both with the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from conf.duration import format_duration

FIRST_SECONDS, SECONDS = 15.0, 60.0  # after which the first line and each further one is printed


@dataclass(frozen=True)
class Done:
    """How far a preparation is, in shares of the whole work and in what was kept of finished shards.

    finished: shards, with those that were found; found: shards that were there before; running: shards in the making.
    """

    finished: float
    found: float
    running: float
    bytes: int
    documents: int
    tokens: int


def seconds_left(done: Done, elapsed: float) -> float | None:
    """Seconds to the end at the pace so far, shards in the making counted half; None before one was made."""
    made = done.finished - done.found
    if made <= 0:
        return None
    return elapsed * max(0.0, 1 - done.finished - done.running / 2) / (made + done.running / 2)


@contextmanager
def progress_bar(title: str, log: Callable[[str], None]) -> Iterator[Callable[[Done], None]]:
    """Yields a function that shows how far the preparation is. log: prints a line where there is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    terminal, started = sys.stdout.isatty(), time.monotonic()
    shown = started + FIRST_SECONDS - SECONDS
    with Progress(*columns, console=Console(), transient=True, disable=not terminal) as bar:
        task = bar.add_task(title, total=1.0, state="")

        def update(done: Done) -> None:
            nonlocal shown
            now = time.monotonic()
            left = seconds_left(done, now - started)
            counts = f"{done.documents:,} documents, {done.bytes / 1e6:,.1f} MB, {done.tokens:,} tokens"
            state = counts + (f", about {format_duration(left)} left" if left is not None else "")
            bar.update(task, completed=done.finished, state=state)
            if not terminal and now - shown >= SECONDS and left:
                log(f"data: {title}: {done.finished:.0%}, {state}")
                shown = now

        yield update
