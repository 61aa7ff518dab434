"""CodeGen2's form of documents: what each becomes, the same for every reader, and nothing lost or stored twice."""

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from conf.choices import IGNORE_INDEX, INFILL_TOKENS, InfillUnit, Objective, Packing
from conf.errors import ConfigError, DataError
from conf.schema import DataConfig, ModelConfig, RunConfig, Settings
from tests.train.data.test_best_fit import EOS, ids_of, write
from train.data.batches import micro_batches
from train.data.best_fit import BestFitDataset, write_plan
from train.data.infill import Form, InfillTokens, span_of, training_tokens, write_infill
from train.data.mixture import MixedOrder
from train.data.packed_dataset import PackedDataset
from train.data.prepare import find_prepared, prepare
from train.data.tokens_read import tokens_read

MASK, SEP, EOM = 1001, 1002, 1003
LENGTH = 16
LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=20)  # tokens of documents, without their eos


class Tokens:
    """What the plan needs of a tokenizer."""

    eos, special_tokens, vocab_size = EOS, {"<mask_1>": MASK, "<sep>": SEP, "<eom>": EOM}, 1000

    def token_bytes(self, token: int) -> bytes:
        return b"\n    " if token % 5 == 3 else b"a\n"


def settings_of(
    seed: int = 1, fraction: float = 0.5, span: float = 0.5, unit: InfillUnit = InfillUnit.token
) -> Settings:
    data = DataConfig(objective=Objective.infill, infill_fraction=fraction, infill_span=span, infill_unit=unit)
    return Settings(model=ModelConfig(context_length=LENGTH), run=RunConfig(seed=seed), data=data)


def infilled(folder: str | Path, lengths: list[int], settings: Settings) -> Path:
    tokens = write(Path(folder), lengths)
    write_infill(tokens, "<u2", settings, Tokens())  # type: ignore[arg-type]
    return training_tokens(tokens, settings)


def documents_of(ids: numpy.ndarray) -> list[list[int]]:
    """Documents between every eos that no <sep> follows."""
    ends = [place for place in numpy.flatnonzero(ids == EOS) if place + 1 == len(ids) or ids[place + 1] != SEP]
    return [ids[first + 1 : last].tolist() for first, last in pairwise(ends)]


def undone(document: list[int]) -> list[int]:
    """A document in the form, put together again."""
    if SEP not in document:
        return document
    at, sep = document.index(MASK), document.index(SEP)
    assert document[sep - 1 : sep + 2] == [EOS, SEP, MASK] and document[-1] == EOM
    prefix, suffix, span = document[:at], document[at + 1 : sep - 1], document[sep + 2 : -1]
    assert span and not {MASK, SEP, EOM, EOS} & {*prefix, *suffix, *span}
    return [*prefix, *span, *suffix]


@examples(max_examples=60)
@given(LENGTHS, st.integers(0, 2**31 - 1), st.sampled_from([0.3, 1.0]), st.sampled_from([0.1, 0.5, 1.0]))
def test_every_document_is_whole_and_each_reader_sees_the_same(
    lengths: list[int], seed: int, fraction: float, span: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(seed, fraction, span)
        tokens = InfillTokens(infilled(folder, lengths, settings), "<u2")
        ids = tokens.read(0, 10**9)
        assert len(tokens) == len(ids) and ids[0] == EOS and ids.dtype == numpy.dtype("<u2")
        for width in (1, 7):
            pieces = [tokens.read(first, first + width) for first in range(0, len(ids), width)]
            assert numpy.concatenate(pieces).tolist() == ids.tolist()
        parts = documents_of(ids)
        assert [token for part in parts for token in undone(part)] == [one for one in ids_of(lengths) if one != EOS]
        for part in parts:
            if SEP in part:
                assert len(part) + 1 <= LENGTH, "with the eos before it, it fits a sample"
                own = len(undone(part))
                assert len(part) - part.index(SEP) - 3 <= max(1, int(own * span))
        if fraction == 1.0:
            assert sum(SEP in part for part in parts) == sum(-(-n // (LENGTH - INFILL_TOKENS)) for n in lengths)


@examples(max_examples=40)
@given(LENGTHS, st.integers(0, 2**31 - 1))
def test_spans_of_whole_lines_are_those_of_tokens_grown_to_line_breaks(lengths: list[int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [infilled(folder, lengths, settings_of(seed, 1.0, 0.4, unit)) for unit in InfillUnit]
        tokens, lines = (documents_of(InfillTokens(path, "<u2").read(0, 10**9)) for path in paths)
        for one, other in zip(tokens, lines, strict=True):
            ids = undone(one)
            assert undone(other) == ids
            borders = {0, len(ids), *(place for place, token in enumerate(ids) if token % 5 == 3)}
            first, end = span_in(one)
            wanted = max(at for at in borders if at <= first), min(at for at in borders if at >= end)
            assert not ids or span_in(other) == wanted


def span_in(document: list[int]) -> tuple[int, int]:
    """Where the span of a document in the form begins and ends in the document."""
    if SEP not in document:
        return 0, 0
    first = document.index(MASK)
    return first, first + len(document) - document.index(SEP) - 3


@examples(max_examples=40)
@given(LENGTHS, st.integers(0, 9), st.sampled_from([5, 1 << 20]))
def test_packed_whole_or_cut_a_document_in_the_form_is_one(lengths: list[int], seed: int, window: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = infilled(folder, lengths, settings_of(seed, 0.6))
        ids = InfillTokens(path, "<u2").read(0, 10**9)
        write_plan(path, "<u2", LENGTH, window_tokens=window)
        whole = BestFitDataset(path, "<u2", LENGTH, document_mask=True)
        cut = PackedDataset(path, "<u2", LENGTH, keep_last=True, document_mask=True)
        labels = [one[1][one[1] != IGNORE_INDEX] for one in map(whole.__getitem__, range(len(whole)))]
        assert sorted(numpy.concatenate(labels).tolist()) == sorted(ids[1:].tolist())
        found = []
        for samples in (whole, cut):
            for index in range(len(samples)):
                inputs, labels_of_sample, positions = samples[index]
                begins = [*numpy.flatnonzero(positions == 0).tolist(), LENGTH]
                assert samples is whole or all(inputs[one] == EOS for one in begins[1:-2])
                for first, last in pairwise(begins):
                    own = labels_of_sample[first:last]
                    own = own[own != IGNORE_INDEX].tolist()
                    assert not any(
                        token == EOS and own[place + 1 : place + 2] != [SEP] for place, token in enumerate(own[:-1])
                    )
                    if samples is whole and SEP in own:
                        found.append(own[:-1])
        assert sorted(found) == sorted(part for part in documents_of(ids) if SEP in part)


def test_every_layout_and_a_resumed_run_reads_the_same_forms(tmp_path: Path) -> None:
    """(ranks, micro-batch size) before and after an interruption at 8 samples, each with the plan opened anew."""
    path = infilled(tmp_path, list(range(3, 60)), settings_of(fraction=0.7))
    write_plan(path, "<u2", LENGTH)

    def read(position: int, ranks: int, size: int) -> list[str]:
        datasets = [BestFitDataset(path, "<u2", LENGTH, document_mask=True) for _ in range(ranks)]
        orders = [MixedOrder([len(one)], [(0, [1.0])], 5) for one in datasets]
        readers = [
            micro_batches(dataset, order, position, size, rank, ranks)
            for rank, (dataset, order) in enumerate(zip(datasets, orders, strict=True))
        ]
        rows = []
        for _ in range(8 // (ranks * size)):
            for batch in map(next, readers):
                rows += [str([part[row].tolist() for part in batch if part is not None]) for row in range(size)]
        return sorted(rows)

    alone = read(0, 1, 1), read(8, 1, 1)
    assert any(str(SEP) in row for row in alone[0]) and alone[0] != alone[1]
    for ranks, size in ((1, 8), (2, 2), (4, 1), (8, 1)):
        assert (read(0, ranks, size), read(8, ranks, size)) == alone


def test_a_draw_is_of_the_seed_and_the_document_alone(tmp_path: Path) -> None:
    def parts(name: str, documents: list[int], settings: Settings) -> list[list[int]]:
        (tmp_path / name).mkdir()
        return documents_of(InfillTokens(infilled(tmp_path / name, documents, settings), "<u2").read(0, 10**9))

    many = [8] * 400
    first = parts("one", many, settings_of(1))
    assert parts("again", many, settings_of(1)) == first
    assert parts("fewer", many[:100], settings_of(1)) == first[:100], "others in the corpus have no influence"
    assert parts("other", many, settings_of(2)) != first
    forms = [part for part in first if SEP in part]
    assert 150 < len(forms) < 250
    assert {part.index(MASK) for part in forms} == set(range(8)), "a span may begin anywhere"
    assert {len(part) - part.index(SEP) - 3 for part in forms} == {1, 2, 3, 4}


def test_spans_are_uniform_in_length_and_place() -> None:
    spans = [span_of(draw, 10, 0.3) for draw in range(1, 6001)]
    for size in (1, 2, 3):
        places = [first for first, end in spans if end - first == size]
        assert 1800 < len(places) < 2200
        counts = numpy.bincount(places, minlength=11 - size)
        assert len(counts) == 11 - size and counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()
    assert span_of(5, 1, 0.1) == (0, 1)


def test_a_plan_is_made_once_and_checked(tmp_path: Path) -> None:
    settings = settings_of()
    path = infilled(tmp_path, [3, 9, 2], settings)
    before = (path / "parts.bin").stat().st_mtime_ns
    infilled(tmp_path, [3, 9, 2], settings)
    assert (path / "parts.bin").stat().st_mtime_ns == before
    assert training_tokens(tmp_path / "train.bin", replace(settings, data=DataConfig(objective=Objective.causal))) == (
        tmp_path / "train.bin"
    )
    Tokens.special_tokens = {"<sep>": SEP}
    try:
        with pytest.raises(
            ConfigError, match=r"infill needs <mask_1>, <eom>, which .*special_tokens=\[\"<mask_1>\",\"<eom>\"\]"
        ) as caught:
            infilled(tmp_path, [3], settings_of(seed=5))
        assert "\n" not in str(caught.value)
    finally:
        Tokens.special_tokens = {"<mask_1>": MASK, "<sep>": SEP, "<eom>": EOM}
    with (path / "parts.bin").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(DataError, match="is damaged"):
        InfillTokens(path, "<u2").read(0, 4)
    (path / "infill.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read .*; remove it and prepare again"):
        InfillTokens(path, "<u2")


@pytest.mark.parametrize("packing", list(Packing))
def test_preparing_stores_no_token_again_and_counts_what_is_read(settings: Settings, packing: Packing) -> None:
    settings.run.seed, settings.model.context_length, settings.data.packing = 4, 64, packing
    settings.data.objective = Objective.infill
    prepared = prepare(settings, lambda line: None)
    size = sum(file.stat().st_size for file in Path(settings.data.cache).rglob("tokens.bin"))
    assert {"<mask_1>", "<sep>", "<eom>"} <= prepared.tokenizer().special_tokens.keys()
    settings.data.infill_fraction = 1.0
    assert find_prepared(settings) is None, "prepared for another share"
    again = prepare(settings, lambda line: None)
    assert again.directory == prepared.directory and find_prepared(settings) == again
    assert sum(file.stat().st_size for file in Path(settings.data.cache).rglob("tokens.bin")) == size
    samples = again.training(settings)["nl"]
    read = tokens_read(settings, again, "nl", len(samples))["nl"]["none"]
    dropped = 64 if packing is Packing.concat else 0  # the last sample is not whole
    assert again.corpora["nl"].train_tokens - 1 - dropped <= read <= again.corpora["nl"].train_tokens - 1
    text = prepared.tokenizer().decode(samples[3][0])
    assert "<sep><mask_1>" in text or "<mask_1>" not in text


def test_the_form_is_written_with_its_ids(tmp_path: Path) -> None:
    path = infilled(tmp_path, [3], settings_of(fraction=1.0, span=0.4))
    assert InfillTokens(path, "<u2").form == Form(EOS, MASK, SEP, EOM, 0.4, [])
