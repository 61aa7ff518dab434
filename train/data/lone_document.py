"""A corpus of one document, which cannot be divided by documents: its end becomes the validation set."""

from pathlib import Path

import numpy

from model.tokenizer import Tokenizer
from train.data.token_file import TokenFile, TokenFileWriter
from train.data.token_spans import SHARD_TOKENS, TokenSpansWriter

LINE_SEARCH_TOKENS = 4096  # so far from where it would be cut, the end of a line is looked for


def held_out_tokens(tokens: int, size_bytes: int, fraction: float, most_bytes: int) -> int:
    """How many tokens of a document are held out: `fraction`, at most about `most_bytes`, and neither none nor all."""
    share = min(fraction, most_bytes / max(size_bytes, 1))
    return min(max(round(share * tokens), 1), tokens - 1)


def split_inside(
    shard: Path,
    start: int,
    stop: int,
    held_out: int,
    tokenizer: Tokenizer,
    train: TokenSpansWriter,
    dtype: str,
    validation: TokenFileWriter,
) -> int:
    """Write the document of tokens [start, stop) in the folder `shard`, its eos the last; return the bytes held out.

    The last `held_out` tokens go to `validation`, fewer where the cut can move on to the end of a line.
    """
    last = stop - 1  # the eos
    cut = last - held_out
    ids = TokenFile(shard / SHARD_TOKENS, dtype).read(cut, stop)
    pieces = map(tokenizer.token_bytes, ids[:LINE_SEARCH_TOKENS].tolist())
    moved = next((at for at, piece in enumerate(pieces) if piece.startswith(b"\n")), held_out)
    if moved < held_out // 2:
        cut, ids = cut + moved, ids[moved:]
    train.write(shard, numpy.array([last, start, last]), numpy.array([stop, cut, stop]))  # an eos before and behind
    validation.write(ids)
    return sum(len(tokenizer.token_bytes(token)) for token in ids[:-1].tolist())
