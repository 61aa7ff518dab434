"""A checkpoint's files without what is in them: which there are, how they are published, which are kept. No torch."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.checksums import STATE, shortfall, with_own
from conf.run_folder import read_json, step_folders, step_of

WRITTEN_AT_ONCE = 512  # parts of a file in one call of the system, which takes 1024 on Linux


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `newest`, the multiples of `every` steps, the `best` by score, and `step`."""

    newest: int
    every: int | None = None
    best: bool = False
    step: int | None = None


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints below `folder`, oldest first."""
    return [path for path in step_folders(folder) if shortfall(path) is None]


def is_complete(path: Path) -> bool:
    """Whether every file that the checkpoint lists is there in its full size. What the files hold is not read."""
    return shortfall(path) is None


def to_remove(folder: Path, keep: Keep, at_most: int | None = None) -> list[Path]:
    """The checkpoints below `folder` that `keep` does not name. at_most: those of later steps go as well: the run has
    gone back behind them."""
    found = step_folders(folder)
    reached = [path for path in found if at_most is None or step_of(path) <= at_most]
    kept = set(reached[-keep.newest :])
    if keep.every:
        kept |= {path for path in reached if step_of(path) % keep.every == 0}
    kept |= {path for path in reached if step_of(path) == keep.step}
    scores = {path: score for path in reached if (score := score_of(path)) is not None} if keep.best else {}
    if scores:
        kept.add(min(scores, key=lambda path: scores[path]))
    return [path for path in found if path not in kept]


def score_of(path: Path) -> float | None:
    """The validation score that a checkpoint was saved with, bits per byte; None where it was not evaluated."""
    try:
        score = read_json(path / STATE)["score"]
    except (ValueError, KeyError, TypeError, OSError):
        return None
    return score if isinstance(score, int | float) else None


def remove(path: Path) -> None:
    """Remove a checkpoint's folder, which looks like none from the first moment on."""
    delete(withdraw(path))


def delete(path: Path) -> None:
    """Delete a folder; of a link to one, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def remove_all(folders: Iterable[Path]) -> None:
    """Remove folders; what cannot be removed is left to `python -m train.checkpoint prune`."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def withdraw(path: Path) -> Path:
    """Let a checkpoint's folder look like none, which takes no time; where it is then, to be removed."""
    gone = path.with_name(f"{path.name}.partial")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    return gone


def sync_folder(path: Path) -> None:
    """Have the disk hold the names in a folder: after a power failure a file without a name is gone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file of `parts` and have the disk hold it before returning."""
    left = [memoryview(part) for part in parts if len(part)]
    with path.open("wb", buffering=0) as file:
        while left:
            written = os.writev(file.fileno(), left[:WRITTEN_AT_ONCE])  # may take a part only
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]
        os.fsync(file.fileno())


def publish(partial: Path, folder: Path, folders: Iterable[str], state: dict[str, Any]) -> None:
    """Let `partial`, whose files are on the disk, become `folder`. folders: below it. state: its `state.json`."""
    write_synced(partial / STATE, (json.dumps(with_own(state), indent=2) + "\n").encode())
    for path in [*(partial / name for name in folders), partial]:
        sync_folder(path)
    if folder.exists():
        replaced = folder.with_name(f"{folder.name}.replaced.partial")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    partial.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(folder.with_name(f"{folder.name}.replaced.partial"), ignore_errors=True)
