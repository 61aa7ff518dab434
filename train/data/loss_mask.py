"""Which tokens of a conversation are learnt, in the token file itself: two bits above the id.

A token file of conversations holds 32 bits a token. `INSIDE` marks the tokens of a conversation, so that an eos that
its template writes is none of the plain ones that separate conversations; `LEARNT` marks what the assistant wrote.
"""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from conf.choices import IGNORE_INDEX

DTYPE = "<u4"
LEARNT, INSIDE = 1 << 31, 1 << 30
ID_BITS = INSIDE - 1


def with_mask(ids: Sequence[int], learnt: Sequence[bool]) -> NDArray[numpy.integer]:
    """The tokens of one conversation as the file holds them."""
    return numpy.array(ids, numpy.uint32) | numpy.where(learnt, LEARNT | INSIDE, INSIDE).astype(numpy.uint32)


def ids_of(tokens: NDArray[numpy.integer]) -> NDArray[numpy.integer]:
    """The ids of tokens of a file; of two bytes a token, they are the ids themselves."""
    return tokens & ID_BITS if tokens.itemsize > 2 else tokens


def labels_of(tokens: NDArray[numpy.integer]) -> NDArray[numpy.int64]:
    """The ids of the tokens that are learnt, `IGNORE_INDEX` for the others."""
    return numpy.where(tokens & LEARNT, (tokens & ID_BITS).astype(numpy.int64), IGNORE_INDEX)
