"""What becomes of each document of a corpus: duplicates are left out, and groups of shards keep to their limits."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
from numpy.typing import NDArray

from conf.choices import Dedup
from train.data.duplicates import Keys, repeated
from train.data.minhash import BANDS
from train.data.shard import DOCUMENT, ShardTask

# What becomes of a document.
TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE, ABOVE_VALIDATION, ABOVE_LIMIT = range(6)


@dataclass
class Part:
    """One shard on its way into a token file. fate: what becomes of each of its documents."""

    task: ShardTask
    record: dict[str, Any]
    fate: NDArray[numpy.uint8]

    def documents(self) -> NDArray[Any]:
        """Of the shard: SHA-256, bytes, tokens and language of each."""
        return numpy.fromfile(self.task.folder / "documents.bin", DOCUMENT)

    def hashes(self) -> Keys:
        """Of the documents that are kept so far."""
        hashes: Keys = self.documents()["sha256"][self.fate == TRAIN]
        return hashes

    def band(self, band: int) -> Keys:
        """Hashes of one band of the documents that are no duplicates yet, `[rows, 1]`."""
        bands = numpy.fromfile(self.task.folder / "bands.bin", "<u8").reshape(-1, BANDS)
        return bands[self.fate == TRAIN, band : band + 1]


def choose(parts: list[Part], dedup: Dedup) -> None:
    """Mark duplicates, and what is above the limits. A document above one is no original: another copy may be kept."""
    if all(part.task.shard.limit_bytes is None for part in parts):
        _mark_duplicates(parts, dedup)
        return
    groups: dict[tuple[str, int], list[Part]] = {}
    for part in parts:
        groups.setdefault((part.task.shard.key, part.task.shard.group), []).append(part)
    before: list[Part] = []
    for group in groups.values():
        _mark_duplicates([*before, *group], dedup)
        _mark_above_limit(group)
        before += group


def _mark_duplicates(parts: list[Part], dedup: Dedup) -> None:
    """Among the documents that are kept so far."""
    exact = repeated([(int((part.fate == TRAIN).sum()), part.hashes) for part in parts])
    for part, again in zip(parts, exact, strict=True):
        part.fate[numpy.flatnonzero(part.fate == TRAIN)[again]] = DUPLICATE
    if dedup is Dedup.minhash:
        near = [numpy.zeros(int((part.fate == TRAIN).sum()), numpy.bool_) for part in parts]
        for band in range(BANDS):
            found = repeated([(len(one), partial(part.band, band)) for one, part in zip(near, parts, strict=True)])
            near = [one | more for one, more in zip(near, found, strict=True)]
        for part, again in zip(parts, near, strict=True):
            part.fate[numpy.flatnonzero(part.fate == TRAIN)[again]] = NEAR_DUPLICATE


def _mark_above_limit(group: list[Part]) -> None:
    """A group keeps its first documents, up to its limit in bytes."""
    limit, total = group[0].task.shard.limit_bytes, 0
    if limit is None:
        return
    for part in group:
        sizes = numpy.where(part.fate == TRAIN, part.documents()["bytes"], 0)
        ends = total + numpy.cumsum(sizes)
        above = (ends > limit) & (ends - sizes > 0) & (part.fate == TRAIN)
        if above.any():  # nothing after it is kept either
            above[numpy.argmax(above) :] = True
        above |= total > limit
        part.fate[above & (part.fate == TRAIN)] = ABOVE_LIMIT
        total = int(ends[-1]) if len(ends) else total
