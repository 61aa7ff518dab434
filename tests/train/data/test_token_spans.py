"""Spans read as one row of tokens, wherever they lie; damage is one line."""

import shutil

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train.data.token_spans as module
from conf.errors import DataError
from train.data.token_file import TokenFile, TokenFileWriter
from train.data.token_spans import TokenSpans, TokenSpansWriter, open_tokens, shards_of

SHARDS, SHARD_SIZE = 5, 40_000  # tokens, of more than one checksum


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for number in range(SHARDS):
        (folder / str(number)).mkdir()
        with TokenFileWriter(folder / str(number) / "tokens.bin", "<u4") as file:
            file.write(numpy.arange(SHARD_SIZE) + number * SHARD_SIZE)
    return folder


def write(shards, spans):
    """The file of `spans`, (shard, start, stop) each, and the tokens it stands for."""
    with TokenSpansWriter(shards / "train.spans") as file:
        for shard, start, stop in spans:
            file.write(shards / str(shard), numpy.array([start]), numpy.array([stop]))
    tokens = [numpy.arange(start, stop) + shard * SHARD_SIZE for shard, start, stop in spans]
    return TokenSpans(shards / "train.spans", "<u4"), numpy.concatenate(tokens)


span = st.tuples(st.integers(0, SHARDS - 1), st.integers(0, SHARD_SIZE - 50), st.integers(1, 50))


@given(st.lists(span, min_size=1, max_size=20), st.integers(0, 900), st.integers(0, 300))
@settings(max_examples=60)
def test_spans_are_one_row_of_tokens(shards, spans, start, length):
    tokens, expected = write(shards, [(shard, first, first + size) for shard, first, size in spans])
    assert len(tokens) == len(expected)
    read = tokens.read(start, start + length)
    assert read.dtype == numpy.dtype("<u4") and read.tolist() == expected[start : start + length].tolist()


def test_few_shards_are_open_at_a_time(shards, monkeypatch):
    monkeypatch.setattr(module, "OPEN_SHARDS", 2)
    tokens, expected = write(shards, [(number, 3, 30_000) for number in range(SHARDS)])
    assert tokens.read(0, len(tokens)).tolist() == expected.tolist()
    assert len(tokens._open) == 2


def test_a_folder_that_was_moved_with_its_shards_is_read(shards, tmp_path):
    write(shards, [(1, 5, 9)])
    shutil.copytree(shards, tmp_path / "moved")
    moved = open_tokens(tmp_path / "moved/train.spans", "<u4")
    assert moved.read(0, 4).tolist() == [SHARD_SIZE + one for one in (5, 6, 7, 8)]
    assert shards_of(tmp_path / "moved/train.spans") == [tmp_path / "moved/1"]
    assert isinstance(open_tokens(shards / "1/tokens.bin", "<u4"), TokenFile)


def test_damage_is_named(shards, tmp_path):
    write(shards, [(0, 0, 10), (4, 0, 10), (2, 0, 10)])
    shutil.copytree(shards, tmp_path / "copy")
    path = tmp_path / "copy/train.spans"
    shutil.rmtree(tmp_path / "copy/4")
    assert TokenSpans(path, "<u4").read(0, 10).tolist() == list(range(10)), "what is there is read"
    with pytest.raises(DataError, match=r"4/tokens\.bin cannot be read .*; remove .* and prepare again"):
        TokenSpans(path, "<u4").read(5, 15)
    content = bytearray(path.read_bytes())
    for at in range(len(content)):
        damaged = content.copy()
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.spans is damaged at span \d; remove .* and prepare again"):
            TokenSpans(path, "<u4").read(0, 30)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"train\.spans cannot be read"):
        TokenSpans(path, "<u4")
