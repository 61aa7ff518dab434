"""A changed bit of any file is found, and the file named."""

from pathlib import Path

import pytest

from conf.checksums import NO_STATE, checksum_of, damage, seal, shortfall, xxh3_64
from tests.train.checkpoint.test_load import flip


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_whatever_is_changed_in_a_sealed_folder_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    assert damage(tmp_path) == NO_STATE
    seal(tmp_path)
    assert damage(tmp_path) is None
    for name in ("one", "two", "state.json"):
        whole = (tmp_path / name).read_bytes()
        for change, said in ((flip, "does not match its checksum"), (empty, ""), (Path.unlink, "is missing")):
            change(tmp_path / name)
            found = damage(tmp_path)
            assert found is not None and found.startswith(f"{name} ") and said in found
            (tmp_path / name).write_bytes(whole)
    assert damage(tmp_path) is None


@pytest.mark.parametrize("content", ["", '{"step": 4, "fil', "[]", '{"step": 4}'])
def test_a_list_that_is_empty_or_cut_is_damage(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    assert shortfall(tmp_path) == "state.json is empty or cut off"


def test_a_checksum_is_xxhsum_s_and_does_not_depend_on_the_pieces(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert checksum_of(tmp_path / "empty", "xxh3_64") == "2d06800538d394c2"  # published for no bytes and seed 0
    assert xxh3_64([b"che", b"ck", memoryview(b"point")]) == xxh3_64([b"checkpoint"]) != xxh3_64([b"checkpoinT"])
    assert checksum_of(tmp_path / "none", "xxh3_64") is None
