"""A folder appears when it is complete, or not at all."""

import os
import socket
import time

import pytest

from conf.partial_folder import partial_folder, remove_abandoned


def test_the_folder_appears_at_the_end(tmp_path):
    with partial_folder(tmp_path / "x" / "a") as partial:
        (partial / "file").write_text("1")
        assert not (tmp_path / "x" / "a").exists()
    assert (tmp_path / "x" / "a" / "file").read_text() == "1"
    with pytest.raises(KeyError), partial_folder(tmp_path / "x" / "b"):
        raise KeyError
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a"]


def test_what_another_process_has_made_stays(tmp_path):
    def late(shared):
        with partial_folder(tmp_path / "a", shared) as partial:
            (partial / "file").write_text("late")
            (tmp_path / "a").mkdir(exist_ok=True)
            (tmp_path / "a" / "file").write_text("first")

    late(shared=True)
    with pytest.raises(OSError, match="not empty"):
        late(shared=False)
    assert (tmp_path / "a" / "file").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_remains_of_the_dead_are_removed(tmp_path):
    host = socket.gethostname()
    names = [
        f"a.partial.{host}.{os.getpid()}",
        f"b.partial.{host}.999999999",
        "c.partial.else.where.2",
        "d.partial.e.1",
        "e.partial.mine",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    os.utime(tmp_path / names[2], (time.time() - 90_000,) * 2)
    os.utime(tmp_path / names[4], (time.time() - 90_000,) * 2)
    remove_abandoned(tmp_path, "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], *names[2:]]
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], *names[3:]]
