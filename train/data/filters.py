"""The paper's filters for code, and the validation split, which is chosen by hash.

Bounds as in the paper (arXiv 2203.13474): average line length below 100, longest line at most 1000 characters, at most
90% decimal or hexadecimal digits. `corpus.py` drops exact duplicates, `files.py` chooses by file extension.
"""

import bisect
import hashlib
import string

from conf.schema import FiltersConfig

HEXADECIMAL = string.hexdigits.encode()


def drop_reason(text: str, filters: FiltersConfig) -> str | None:
    """Name of the first filter that `text` fails, None where it passes all of them."""
    lines = text.removesuffix("\n").split("\n")
    if sum(map(len, lines)) >= filters.average_line_length * len(lines):
        return "average line length"
    if max(map(len, lines)) > filters.longest_line_length:
        return "longest line"
    content = text.encode()
    digits = len(content) - len(content.translate(None, HEXADECIMAL))
    if digits > filters.digit_fraction * len(text):
        return "digits"
    return None


def text_sha256(text: str) -> bytes:
    """SHA-256 of the UTF-8 text: identifies duplicates and decides the split."""
    return hashlib.sha256(text.encode()).digest()


def is_held_out(sha256: bytes, fraction: float) -> bool:
    """Whether the document with this hash belongs to the validation split rather than to training.

    Depends on the document's text alone, not on the seed, the order or other documents: corpora that share a text put
    it on the same side. Texts that differ in one byte are different documents.
    """
    return int.from_bytes(sha256[:8], "big") < fraction * 2**64


class ValidationSelection:
    """The held-out documents that are evaluated: those with the smallest hashes, up to `max_bytes` in total.

    Only their hashes are in memory, whatever the size of the corpus. A document larger than `max_bytes` is left out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._selected: list[tuple[bytes, int]] = []
        self._bytes = 0
        self._ceiling: bytes | None = None

    def add(self, sha256: bytes, size_bytes: int) -> None:
        """Add one held-out document, evicting those with larger hashes where the total exceeds `max_bytes`."""
        if size_bytes > self._max_bytes or (self._ceiling is not None and sha256 >= self._ceiling):
            return
        bisect.insort(self._selected, (sha256, size_bytes))
        self._bytes += size_bytes
        while self._bytes > self._max_bytes:
            # later documents with a hash above the evicted one stay out even if they fit: the order must not matter
            self._ceiling, size = self._selected.pop()
            self._bytes -= size

    def sha256s(self) -> set[bytes]:
        """Hashes of the selected documents."""
        return {sha256 for sha256, _ in self._selected}
