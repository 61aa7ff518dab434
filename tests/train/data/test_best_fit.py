"""Best-fit packing: documents whole, each token a label once, whoever reads it and however it is interrupted."""

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.choices import IGNORE_INDEX, Packing
from conf.errors import DataError
from train.data.batches import micro_batches
from train.data.best_fit import BestFitDataset, plan_folder, write_plan
from train.data.mixture import MixedOrder
from train.data.prepare import find_prepared, prepare
from train.data.token_file import TokenFileWriter

LENGTH = 8
EOS = 0
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=25)  # tokens of documents, without their eos


def write(folder: Path, lengths: list[int]) -> Path:
    """Documents whose tokens are their places in the file, so that none occurs twice, each with an eos after it."""
    path = folder / "train.bin"
    with TokenFileWriter(path, "<u2") as file:
        file.write(ids_of(lengths))
    return path


def ids_of(lengths: list[int]) -> numpy.ndarray:
    ids = numpy.arange(1 + sum(lengths) + len(lengths))
    ids[numpy.cumsum([0, *(length + 1 for length in lengths)])] = EOS
    return ids


def samples_of(lengths: list[int], window: int = 1 << 20, mask: bool = True) -> list[tuple[numpy.ndarray, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), lengths)
        write_plan(path, "<u2", LENGTH, window_tokens=window)
        dataset = BestFitDataset(path, "<u2", LENGTH, mask)
        padding = sum(
            int((labels == IGNORE_INDEX).sum()) for _, labels, *_ in (dataset[i] for i in range(len(dataset)))
        )
        assert dataset.padding == pytest.approx(padding / (len(dataset) * LENGTH))
        return [dataset[index] for index in range(len(dataset))]


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 60))
def test_each_token_is_a_label_once_and_no_short_document_is_cut(lengths: list[int], window: int) -> None:
    samples = samples_of(lengths, window)
    file = ids_of(lengths)
    labels = numpy.concatenate([labels[labels != IGNORE_INDEX] for _, labels, _ in samples])
    assert Counter(labels.tolist()) == Counter(file[1:].tolist())
    whole: Counter[tuple[int, ...]] = Counter()
    for inputs, labels, positions in samples:
        assert inputs.dtype == labels.dtype == numpy.int64 and positions.dtype == numpy.int32
        starts = [*numpy.flatnonzero(positions == 0), LENGTH]
        for start, stop in pairwise(starts):
            assert positions[start:stop].tolist() == list(range(stop - start))
            counted = labels[start:stop] != IGNORE_INDEX
            assert counted.all() or (not counted.any() and stop == LENGTH), "padding is the end of a sample"
            if counted.any():
                assert labels[start : stop - 1].tolist() == inputs[start + 1 : stop].tolist()
                whole[(*inputs[start:stop].tolist(), int(labels[stop - 1]))] += 1
    borders = numpy.flatnonzero(file == EOS)
    for first, last in pairwise(borders):
        pieces = [file[at : min(at + LENGTH, last) + 1] for at in range(first, last, LENGTH)]
        assert all(whole[tuple(piece.tolist())] > 0 for piece in pieces), "cut every LENGTH tokens, if at all"


@settings(max_examples=60)
@given(LENGTHS)
def test_rests_are_where_they_leave_the_least_room(lengths: list[int]) -> None:
    """Beside a plain best-fit decreasing; equal rooms may be taken in any order."""
    rests = sorted(((length + 1) % LENGTH for length in lengths), reverse=True)
    rooms: list[int] = []
    for rest in filter(None, rests):
        fitting = [room for room in rooms if room >= rest]
        room = min(fitting, default=LENGTH)
        if fitting:
            rooms.remove(room)
        rooms.append(room - rest)
    found = [int((labels == IGNORE_INDEX).sum()) for _, labels in samples_of(lengths, mask=False)]
    whole = sum((length + 1) // LENGTH for length in lengths)
    assert sorted(found) == sorted([*rooms, *[0] * whole])


@settings(max_examples=25)
@given(
    LENGTHS,
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from([(1, 1), (2, 1), (1, 4), (2, 2), (4, 1)]), st.integers(1, 3)), min_size=1),
)
def test_any_layout_interruption_and_accumulation_reads_each_epoch_once(
    lengths: list[int], seed: int, pieces: list[tuple[tuple[int, int], int]]
) -> None:
    """A piece is a layout (data-parallel ranks, micro-batch size) and the steps of 4 samples before it is stopped."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), lengths)
        write_plan(path, "<u2", LENGTH)
        dataset = BestFitDataset(path, "<u2", LENGTH, True)
        order, step, read = MixedOrder([len(dataset)], [(0, [1.0])], seed), 0, []
        for (ranks, size), steps in pieces:
            readers = [micro_batches(dataset, order, step * 4, size, rank, ranks) for rank in range(ranks)]
            for _ in range(steps * 4 // (ranks * size)):
                for batch in (next(reader) for reader in readers):
                    read += list(zip(*(part.tolist() for part in batch), strict=True))
            step += steps
        expected = [tuple(part.tolist() for part in dataset[order[position]]) for position in range(step * 4)]
        assert Counter(map(repr, read)) == Counter(map(repr, expected))
        for start in range(0, len(read) - len(dataset) + 1, len(dataset)):
            epoch = {order[position] for position in range(start, start + len(dataset))}
            assert epoch == set(range(len(dataset)))


def test_a_plan_is_made_once_and_checked(tmp_path: Path) -> None:
    path = write(tmp_path, [3, 9, 2])
    write_plan(path, "<u2", LENGTH)
    plan = plan_folder(path, LENGTH) / "pieces.bin"
    before = plan.stat().st_mtime_ns
    write_plan(path, "<u2", LENGTH)
    assert plan.stat().st_mtime_ns == before
    with pytest.raises(IndexError):
        BestFitDataset(path, "<u2", LENGTH)[99]
    with plan.open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(DataError, match="is damaged"):
        BestFitDataset(path, "<u2", LENGTH)[0]


def test_preparing_plans_and_tells_the_padding(settings) -> None:
    lines: list[str] = []
    prepare(settings, lines.append)
    assert not any("padding" in line for line in lines)
    settings.data.packing, settings.data.document_mask = Packing.best_fit, True
    assert find_prepared(settings) is None, "prepared for another packing"
    prepared = prepare(settings, lines.append)
    assert lines[-1].endswith("of them padding") and "samples of 16 tokens" in lines[-1]
    assert find_prepared(settings) == prepared
    samples = prepared.training(settings)["nl"]
    assert isinstance(samples, BestFitDataset) and len(samples[0]) == 3
