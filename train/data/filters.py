"""Which documents are kept: the paper's filters for code, exact duplicates dropped, validation held out by hash.

Bounds as in the paper (arXiv 2203.13474): average line length below 100, longest line at most 1000 characters, at most
90% decimal or hexadecimal digits, each text once. The choice by file extension is made where files are listed.
"""

import bisect
import hashlib
import string

from conf.schema import FiltersConfig

HEXADECIMAL = string.hexdigits.encode()


def why_dropped(text: str, filters: FiltersConfig) -> str | None:
    """The first filter for code that `text` does not pass, in a word or two; None where it passes them all."""
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


def digest(text: str) -> bytes:
    """SHA-256 of the UTF-8 text: its identity for duplicates and for the split."""
    return hashlib.sha256(text.encode()).digest()


def is_held_out(identity: bytes, fraction: float) -> bool:
    """Whether the document with this `digest` is kept out of training.

    It depends on the document alone: other documents, their order and the seed never move it, and two corpora that
    share a text agree. Texts that differ in a byte are different documents.
    """
    return int.from_bytes(identity[:8], "big") < fraction * 2**64


class ValidationPart:
    """The held-out documents that are evaluated: the first in the order of their hashes, up to a number of bytes.

    Only these are held in memory, whatever the size of the corpus. A document that alone is larger never is among them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[tuple[bytes, int]] = []
        self._bytes = 0
        self._ceiling: bytes | None = None

    def offer(self, identity: bytes, size_bytes: int) -> None:
        """Consider one held-out document."""
        if size_bytes > self._most_bytes or (self._ceiling is not None and identity >= self._ceiling):
            return
        bisect.insort(self._kept, (identity, size_bytes))
        self._bytes += size_bytes
        while self._bytes > self._most_bytes:
            # what follows the first hash that did not fit stays out even if it is smaller, or order would matter
            self._ceiling, size = self._kept.pop()
            self._bytes -= size

    def identities(self) -> set[bytes]:
        """The digests of the documents that are in."""
        return {identity for identity, _ in self._kept}
