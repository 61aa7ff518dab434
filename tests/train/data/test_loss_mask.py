"""The bits above a token's id."""

import numpy

from conf.choices import IGNORE_INDEX
from train.data.loss_mask import DTYPE, ids_of, labels_of, with_mask


def test_ids_and_labels_come_back_from_a_file(tmp_path):
    ids, learnt = [0, 107_007, 50_256, 3], [False, True, False, True]
    tokens = with_mask(ids, learnt).astype(DTYPE)
    assert ids_of(tokens).tolist() == ids
    assert labels_of(tokens).tolist() == [IGNORE_INDEX, 107_007, IGNORE_INDEX, 3]
    assert 50_256 not in tokens, "an eos inside of a conversation is no separator"


def test_tokens_without_bits_are_their_ids():
    for dtype in ("<u2", DTYPE):
        tokens = numpy.array([1, 50_256], dtype)
        assert ids_of(tokens).tolist() == [1, 50_256]
