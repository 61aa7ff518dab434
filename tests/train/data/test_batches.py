"""Batches of each data-parallel rank: together they are the run's samples, whatever the number of ranks."""

import threading
from itertools import islice

import numpy as np
import pytest
import torch

from conf.choices import IGNORE_INDEX
from conf.errors import DataError
from parallel.micro_batch import MicroBatch
from train.data.batches import micro_batches, prefetched, validation_batches
from train.data.packed_dataset import PackedDataset, ShuffledOrder
from train.data.token_file import TokenFileWriter

LENGTH = 8


@pytest.fixture
def dataset(tmp_path):
    """21 samples of consecutive tokens."""
    path = tmp_path / "tokens.bin"
    with TokenFileWriter(path, "<u2") as file:
        file.write(np.arange(21 * LENGTH + 1))
    return PackedDataset(path, "<u2", LENGTH)


def sample_indices(ids):
    """The index in the data set of each row."""
    return [int(row[0]) // LENGTH for row in ids]


@pytest.mark.parametrize(("micro_batch_size", "dp_size"), [(1, 1), (2, 1), (3, 2), (1, 6), (2, 3)])
@pytest.mark.parametrize("position", [0, 12, 30])
def test_every_layout_reads_the_same_samples(dataset, micro_batch_size, dp_size, position):
    order = ShuffledOrder(len(dataset), 5)
    ranks = [micro_batches(dataset, order, position, micro_batch_size, rank, dp_size) for rank in range(dp_size)]
    read = []
    for _ in range(12 // (micro_batch_size * dp_size)):
        for rank in ranks:
            ids, labels, _ = next(rank)
            assert ids.shape == labels.shape == (micro_batch_size, LENGTH)
            assert (labels == ids + 1).all()
            read += sample_indices(ids)
    assert read == [order[position + offset] for offset in range(12)]


def test_a_resumed_run_continues_where_it_stopped(dataset):
    order = ShuffledOrder(len(dataset), 5)
    whole = [sample_indices(ids) for ids, *_ in islice(micro_batches(dataset, order, 0, 2, 0, 1), 20)]
    resumed = [sample_indices(ids) for ids, *_ in islice(micro_batches(dataset, order, 16, 2, 0, 1), 12)]
    assert resumed == whole[8:], "across the end of the first epoch, after 21 samples"


@pytest.mark.parametrize(("batch_size", "dp_size"), [(1, 1), (4, 1), (4, 2), (8, 4), (21, 1)])
def test_validation_counts_every_sample_once(dataset, batch_size, dp_size):
    ranks = [list(validation_batches(dataset, batch_size, rank, dp_size)) for rank in range(dp_size)]
    assert len({len(batches) for batches in ranks}) == 1, "evaluation is collective"
    counted = []
    for ids, labels, _ in (batch for batches in ranks for batch in batches):
        assert ids.shape == labels.shape == (batch_size, LENGTH)
        real = (labels != IGNORE_INDEX).all(1)
        assert (labels[~real] == IGNORE_INDEX).all(), "padding is whole rows"
        counted += sample_indices(ids[real])
    assert sorted(counted) == list(range(21))


def test_batches_made_ahead_are_the_same_and_so_is_their_error():
    def source():
        for number in range(10):
            yield MicroBatch(torch.tensor([number]), torch.tensor([-number]))
        raise DataError("the file is damaged")

    found = []
    with pytest.raises(DataError, match="damaged"):
        for ids, labels, _ in prefetched(source(), pin=False):
            found.append((int(ids), int(labels)))
    assert found == [(number, -number) for number in range(10)]
    assert list(prefetched(iter([]), pin=False)) == []


def test_the_thread_ends_with_its_reader(dataset):
    before = threading.active_count()
    batches = prefetched(micro_batches(dataset, ShuffledOrder(len(dataset), 5), 0, 2, 0, 1), pin=False)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    for thread in threading.enumerate():
        if thread.name == "prefetch":
            thread.join(10)
    assert threading.active_count() == before
