"""Validation loss in bits per byte: comparable across tokenizers, since every byte of the text is paid for."""

import math
from pathlib import Path

from parallel.engine import Engine
from train.data.batches import validation_batches
from train.data.blocks import Blocks
from train.data.prepare import CorpusFiles


def bits_per_byte(engine: Engine, files: CorpusFiles, context_length: int, batch_size: int) -> float:
    """Cross-entropy of the whole validation set in bits, per byte of its UTF-8 text.

    The separators between documents are predicted and paid for too; they are no bytes of the text.
    Every process calls it together.
    """
    blocks = Blocks(Path(files.validation), files.dtype, context_length, partial=True)
    world = engine.world
    nats = sum(
        engine.eval_batch(batch) for batch in validation_batches(blocks, batch_size, world.data_rank, world.data_size)
    )
    return nats / math.log(2) / files.validation_bytes
