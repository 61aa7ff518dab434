"""Token files: what was written is read, and a changed byte is found where it is read."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.errors import DataError
from train.data.token_file import CHUNK_BYTES, TokenFile, TokenFileWriter


def write(path, dtype, *parts):
    with TokenFileWriter(path, dtype) as file:
        for part in parts:
            file.write(part)
        return file.tokens


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """100,000 tokens of two bytes: four checksums."""
    path = tmp_path_factory.mktemp("tokens") / "train.bin"
    ids = numpy.arange(100_000) % 65_536
    assert write(path, "<u2", ids[:7], ids[7:90_000], ids[90_000:].tolist()) == 100_000
    assert path.with_name("train.bin.crc32").stat().st_size == 4 * 4
    return path, ids


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_any_range_is_read_as_it_was_written(long, start, length):
    path, ids = long
    file = TokenFile(path, "<u2")
    assert len(file) == 100_000
    assert file.read(start, start + length).tolist() == ids[start : start + length].tolist()


def test_a_changed_byte_is_found_where_it_is_read(tmp_path):
    path = tmp_path / "train.bin"
    write(path, "<u4", numpy.arange(50_000))
    content = bytearray(path.read_bytes())
    content[CHUNK_BYTES + 5] ^= 1
    path.write_bytes(content)
    file = TokenFile(path, "<u4")
    assert file.read(0, 16_384).tolist() == list(range(16_384))
    with pytest.raises(DataError, match=rf"{path} is damaged in the 64 KiB at byte 65,536; remove {tmp_path} and"):
        file.read(16_000, 17_000)


def test_a_file_that_is_cut_off_or_gone_is_one_line(tmp_path):
    path = tmp_path / "train.bin"
    write(path, "<u4", numpy.arange(50_000))
    path.write_bytes(path.read_bytes()[:CHUNK_BYTES])
    with pytest.raises(DataError, match=r"train\.bin is cut off"):
        TokenFile(path, "<u4")
    path.unlink()
    with pytest.raises(DataError, match=r"train\.bin cannot be read"):
        TokenFile(path, "<u4")
