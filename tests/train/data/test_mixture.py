"""Mixtures: exact over any window, each sample of an epoch once, the same under every layout and after any stop."""

import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import MixturePhase, StageConfig
from tests.train.data import sparse
from train.data.batches import micro_batches
from train.data.best_fit import BestFitDataset, plan_folder
from train.data.mixture import Concatenation, MixedOrder, pattern, training_order
from train.data.packed_dataset import PackedDataset
from train.data.prepare import prepare
from train.data.token_file import TokenFileWriter

WEIGHTS = st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any)


@settings(max_examples=40)
@given(WEIGHTS)
def test_a_pattern_has_served_each_corpus_its_share_at_every_place(weights):
    found = pattern(weights)
    places = numpy.arange(len(found.seen))[:, None]
    share = places * numpy.array(weights) / sum(weights)
    period = len(found.corpora)
    assert abs(found.seen - share).max() < 1 + period / 10_000  # weights are rounded to 1 in 10,000
    assert found.seen[-1].tolist() == [(found.corpora == corpus).sum() for corpus in range(len(weights))]


def test_weights_are_kept_to_one_in_ten_thousand():
    assert len(pattern([0.9, 0.1]).corpora) == 10
    assert (pattern([0.9, 0.1]).corpora == 1).sum() == 1
    assert len(pattern([1.0]).corpora) == 1
    shares = pattern([1.0, 2.0, 3.0e-4]).seen[-1]
    assert shares[0] * 2 == pytest.approx(shares[1], abs=2) and shares[2] == 1


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=3)


@st.composite
def orders(draw):
    """An order of up to three corpora in up to three phases, with its sizes."""
    sizes = draw(SIZES)
    weights = st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)).filter(any)
    starts = [0, *sorted(draw(st.sets(st.integers(1, 60), max_size=2)))]
    return MixedOrder(sizes, [(start, draw(weights)) for start in starts], draw(st.integers(0, 2**32))), sizes


@settings(max_examples=60)
@given(orders(), st.integers(0, 120))
def test_each_sample_of_each_epoch_of_each_corpus_is_read_once(drawn, end):
    order, sizes = drawn
    ends = numpy.cumsum(sizes)
    read = {corpus: [] for corpus in range(len(sizes))}
    for position in range(end):
        index = order[position]
        corpus = int(numpy.searchsorted(ends, index, side="right"))
        read[corpus].append(index)
    assert order.read(end).tolist() == [len(one) for one in read.values()]
    for corpus, size in enumerate(sizes):
        for start in range(0, len(read[corpus]), size):
            epoch = read[corpus][start : start + size]
            assert len(set(epoch)) == len(epoch)


class Numbers:
    """A data set whose sample is its index."""

    def __getitem__(self, index):
        return numpy.array([index]), numpy.array([index])


@settings(max_examples=30)
@given(
    orders(),
    st.lists(
        st.tuples(st.sampled_from([(1, 1), (2, 1), (1, 4), (3, 2), (2, 2), (12, 1)]), st.integers(1, 3)), max_size=4
    ),
)
def test_any_layout_and_interruption_reads_the_same_global_batches(drawn, pieces):
    """A piece is a layout (data-parallel ranks, micro-batch size) and the steps it takes before it is stopped."""
    order, batch, step = drawn[0], 12, 0
    for (ranks, size), steps in pieces:
        readers = [micro_batches(Numbers(), order, step * batch, size, rank, ranks) for rank in range(ranks)]
        for _ in range(steps):
            read = [
                int(row)
                for _ in range(batch // (ranks * size))
                for reader in readers
                for row in next(reader)[0].flatten()
            ]
            assert Counter(read) == Counter(order[step * batch + at] for at in range(batch))
            step += 1


def test_data_sets_one_after_another(tmp_path):
    datasets = []
    for name, tokens in (("a", 33), ("b", 17)):
        with TokenFileWriter(tmp_path / name, "<u2") as file:
            file.write(numpy.arange(tokens) + len(datasets) * 1000)
        datasets.append(PackedDataset(tmp_path / name, "<u2", 8))
    both = Concatenation(datasets)
    assert len(both) == 6
    assert [int(both[index][0][0]) for index in range(6)] == [0, 8, 16, 24, 1000, 1008]
    with pytest.raises(IndexError):
        both[6]


def test_phases_begin_with_their_step(settings):
    stage = StageConfig(corpus="nl", mixture_phases=[MixturePhase(3, {"code": 1.0})], global_batch_size=4)
    order = training_order(stage, {"nl": 100, "code": 50}, 1)
    assert order.read(12).tolist() == [12, 0] and order.read(20).tolist() == [12, 8]
    prepared = prepare(settings, lambda line: None)
    stage.mixture = {"nl": 0.5, "code": 0.5}
    assert list(prepared.training(settings, stage)) == ["nl", "code"]
    assert list(prepared.training(settings, StageConfig(corpus="code"))) == ["code"]


def memory_bytes():
    """Memory of this process that is no file's."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_a_trillion_tokens_start_at_once_in_little_memory(packing, tmp_path):
    """A billion samples of 1024 tokens, in files of holes."""
    path, blocks, length = tmp_path / "train.bin", 10**9, 1024
    sparse.make(path, "<u2", blocks * length + 1)
    plan = plan_folder(path, length)
    plan.mkdir()
    sparse.make(plan / "samples.bin", "<u8", blocks + 1)
    sparse.make(plan / "pieces.bin", "<u8", 2 * blocks)
    places = range(0, 10**9, 10**9 // 40)
    order = MixedOrder([blocks], [(0, [1.0])], 5)
    for block in (order[place] for place in places):
        sparse.put(path, "<u2", block * length, [7] * (length + 1))
        sparse.put(plan / "samples.bin", "<u8", block, [block, block + 1])
        sparse.put(plan / "pieces.bin", "<u8", 2 * block, [block * length, length])
    tracemalloc.start()
    before, started = memory_bytes(), time.process_time()
    dataset = (PackedDataset if packing == "concat" else BestFitDataset)(path, "<u2", length)
    both, order = Concatenation([dataset]), MixedOrder([len(dataset)], [(0, [1.0])], 5)
    assert len(both) == blocks
    for place in places:
        inputs, labels = both[order[place]]
        assert (inputs == 7).all() and (labels == 7).all()
    used, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(peak, memory_bytes() - before) < 20_000_000
    assert used < 5, "no part of the work grows with the file"
