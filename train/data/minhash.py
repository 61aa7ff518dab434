"""MinHash signatures of documents, by which near duplicates are found (data.dedup=minhash).

Broder 1997; parameters as in FineWeb's preparation (arXiv 2406.17557): runs of 5 words, 14 bands of 8 hashes. Two
documents that share s of their runs have a band in common with probability 1 - (1 - s^8)^14: 0.56 at s = 0.7, 0.92 at
0.8, 0.9996 at 0.9.
"""

import re
import zlib

import numpy
from numpy.typing import NDArray

WORDS, BANDS, ROWS = 5, 14, 8
WORD = re.compile(r"\w+")
PRIME = numpy.uint64((1 << 31) - 1)  # products of two numbers below it fit in 64 bits
CHUNK = 4096  # runs hashed at a time
_DRAW = numpy.random.Generator(numpy.random.Philox(0x4D696E48617368))  # fixed: signatures of all shards are compared
_FACTORS = _DRAW.integers(1, int(PRIME), (BANDS * ROWS, 1), dtype=numpy.uint64)
_OFFSETS = _DRAW.integers(0, int(PRIME), (BANDS * ROWS, 1), dtype=numpy.uint64)
_MIX = _DRAW.integers(1, 1 << 63, (1, ROWS), dtype=numpy.uint64) * numpy.uint64(2) + numpy.uint64(1)


def band_hashes(text: str) -> NDArray[numpy.uint64]:
    """`[BANDS]`: a hash of each band of the signature of `text`; documents that share one are near duplicates."""
    words = WORD.findall(text.lower()) or [text]
    runs = {zlib.crc32(" ".join(words[at : at + WORDS]).encode()) for at in range(max(1, len(words) - WORDS + 1))}
    hashes = numpy.fromiter(runs, numpy.uint64, len(runs)) % PRIME
    signature = numpy.full(BANDS * ROWS, PRIME, numpy.uint64)
    for start in range(0, len(hashes), CHUNK):
        mapped = (hashes[None, start : start + CHUNK] * _FACTORS + _OFFSETS) % PRIME
        signature = numpy.minimum(signature, mapped.min(axis=1))
    mixed: NDArray[numpy.uint64] = (signature.reshape(BANDS, ROWS) * _MIX).sum(axis=1, dtype=numpy.uint64)
    return mixed ^ (mixed >> numpy.uint64(29))
