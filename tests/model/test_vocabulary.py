"""A grown vocabulary: new rows are the mean of the old ones, on whichever rank they lie."""

from pathlib import Path

import pytest
import torch

from model.build import ALONE, layer_shapes
from model.vocabulary import grown, with_rows
from model.weights import Weights, memory_reader
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import Shard
from tests.train.sample.cases import MODEL
from tests.twin import initial_weights

ROWS, KNOWN = 384, 300  # of MODEL's 320


def test_rows_are_kept_cut_and_added():
    value = torch.arange(12.0).view(4, 3)
    assert with_rows("weight", value, 4) is not None and torch.equal(with_rows("weight", value, 4), value)
    assert torch.equal(with_rows("weight", value, 2), value[:2])
    mean = value[:2].mean(0)
    assert torch.equal(with_rows("weight", value, 5, known=2), torch.stack([*value[:2], mean, mean, mean]))
    assert torch.equal(with_rows("bias", value[:, 0], 5), torch.tensor([0.0, 3, 6, 9, 4.5]))
    assert with_rows("norm.weight", value, 9) is value


@pytest.mark.parametrize("size", [1, 2])
def test_each_rank_reads_its_rows_of_the_grown_weights(size):
    layers = initial_weights(MODEL, seed=1)
    weights = grown(Weights("w", Path(), MODEL, None, "memory", memory_reader(layers)), ROWS, KNOWN)
    assert weights.model.vocab_size == ROWS and weights.model.n_layer == MODEL.n_layer
    shapes = layer_shapes(weights.model)
    for index in (0, 1, MODEL.n_layer + 1):
        whole = weights.layer(index)
        assert {name: tuple(value.shape) for name, value in whole.items()} == shapes[index]
        for name, value in whole.items():
            if value.shape[0] == ROWS:
                old = layers[index][name]
                assert torch.equal(value[:KNOWN], old[:KNOWN])
                torch.testing.assert_close(value[KNOWN:], old[:KNOWN].mean(0).expand(ROWS - KNOWN, *old.shape[1:]))
        rows = {name: Shard(0, (ROWS,)) for name, value in whole.items() if value.shape[0] == ROWS}
        ranks = [
            weights.layer(index, rows, ALONE if size == 1 else TensorParallelGroup(size=size, rank=rank))
            for rank in range(size)
        ]
        for name in rows:
            assert torch.equal(torch.cat([rank[name] for rank in ranks]), whole[name])
