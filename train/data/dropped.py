"""What preparation leaves out: counted by reason, with the first ones as examples."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from conf.choices import OnError
from conf.errors import DataError

EXAMPLES = 3  # kept for each reason
SHOWN_CHARACTERS = 100  # of an example's text


class Dropped:
    """Counts and examples of what was left out. `unreadable` raises at the first one under on_error=fail."""

    def __init__(self, on_error: OnError = OnError.skip) -> None:
        self._on_error = on_error
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, place: str, text: str = "") -> None:
        """Count one document or file that was left out. place: its file, and line or row; text: shown in part."""
        self._add(reason, 1, [example(place, text)])

    def unreadable(self, problem: str) -> None:
        """Handle one document that cannot be read. problem: the message, with file and line.

        Errors: `DataError` under `fail`.
        """
        if self._on_error is OnError.fail:
            raise DataError(f"{problem}; fix it, or skip such documents with data.on_error=skip")
        self.add("unreadable", problem)

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what `record` of another one gave."""
        for reason, one in other.items():
            self._add(reason, one["count"], one["examples"])

    def record(self) -> dict[str, Any]:
        """Reason -> its count and examples, for JSON."""
        return {key: {"count": self.counts[key], "examples": self.examples[key]} for key in sorted(self.counts)}

    def _add(self, reason: str, count: int, places: list[str]) -> None:
        self.counts[reason] += count
        kept = self.examples.setdefault(reason, [])
        kept += places[: EXAMPLES - len(kept)]


def example(place: str, text: str) -> str:
    """How a document that was left out is shown: its place, and the beginning of its text."""
    cut = "..." if len(text) > SHOWN_CHARACTERS else ""
    return f"{place}: {text[:SHOWN_CHARACTERS]!r}{cut}" if text.strip() else place
