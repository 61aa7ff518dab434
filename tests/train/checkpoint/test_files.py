"""What counts as a checkpoint, and which ones stay."""

import json
import shutil
from pathlib import Path

import pytest

from conf.checksums import shortfall
from conf.run_folder import step_of, write_json
from train.checkpoint import files
from train.checkpoint.files import (
    Keep,
    checkpoints,
    is_complete,
    publish,
    to_remove,
    write_synced,
)


def checkpoint(folder: Path, step: int, score: float | None = None) -> Path:
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    (path / "part").write_bytes(b"12345")
    write_json(path / "state.json", {"step": step, "score": score, "files": {"part": 5}})
    return path


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    whole, cut, short, unlisted = (checkpoint(tmp_path, step) for step in (2, 4, 6, 8))
    (cut / "part").unlink()
    (short / "part").write_bytes(b"1234")
    (unlisted / "state.json").unlink()
    checkpoint(tmp_path, 10).rename(tmp_path / "step_00000010.partial")
    assert checkpoints(tmp_path) == [whole]
    assert [is_complete(path) for path in (whole, cut, short, unlisted)] == [True, False, False, False]
    newer = checkpoint(tmp_path, 12)
    assert checkpoints(tmp_path) == [whole, newer]
    assert checkpoints(tmp_path / "none") == []


def test_the_newest_every_so_many_and_the_best_stay(tmp_path: Path) -> None:
    for step, score in ((2, 1.5), (4, None), (6, 1.2), (8, 1.4), (10, None), (12, 1.3), (14, 9.0)):
        checkpoint(tmp_path, step, score)
    removed = [step_of(path) for path in to_remove(tmp_path, Keep(newest=1, every=4, best=True), at_most=12)]
    assert removed == [2, 10, 14], "12 is the newest, 4 and 8 are multiples, 6 is the best, 14 lies ahead"
    assert [step_of(path) for path in to_remove(tmp_path, Keep(newest=2))] == [2, 4, 6, 8, 10]
    assert [step_of(path) for path in to_remove(tmp_path, Keep(newest=2, step=6))] == [2, 4, 8, 10]


def test_a_name_is_given_only_to_what_the_disk_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders are synced before the rename: a power failure leaves no empty checkpoint."""
    order: list[str] = []
    fsync, rename = files.os.fsync, Path.rename
    monkeypatch.setattr(files.os, "fsync", lambda number: (order.append("sync"), fsync(number))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (order.append("rename"), rename(self, to))[1])
    (tmp_path / "step_00000002.partial/weights").mkdir(parents=True)
    write_synced(tmp_path / "step_00000002.partial/weights/part", b"12345")
    assert order == ["sync"]
    state = {"files": {"weights/part": 5}}
    publish(tmp_path / "step_00000002.partial", tmp_path / "step_00000002", ["weights"], state)
    assert order == ["sync"] * 4 + ["rename", "sync"], "the part, state.json, two folders; then the folder above"
    assert is_complete(tmp_path / "step_00000002")
    shutil.copytree(tmp_path / "step_00000002", tmp_path / "step_00000004")
    state = json.loads((tmp_path / "step_00000002/state.json").read_text())
    for key, value, said in (
        ("step", 4, "state.json does not match its checksum"),
        ("files", {"weights/part": 4}, "state.json does not match its checksum"),
    ):
        write_json(tmp_path / "step_00000002/state.json", {**state, key: value})
        assert shortfall(tmp_path / "step_00000002") == said
    del state["state_xxh3_64"]  # as earlier versions wrote it
    write_json(tmp_path / "step_00000002/state.json", {**state, "step": 2})
    assert shortfall(tmp_path / "step_00000002") is None
    write_json(tmp_path / "step_00000004/state.json", {**state, "step": 2})
    assert shortfall(tmp_path / "step_00000004") == "state.json is of step 2", "a copy under another name"


def test_of_a_checkpoint_that_was_moved_away_the_link_is_removed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "step_00000004").symlink_to(tmp_path / "elsewhere")
    files.remove(tmp_path / "step_00000004")
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
