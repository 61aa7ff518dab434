"""Folders that are written under another name and renamed when they are complete: a killed process leaves none."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

ABANDONED_SECONDS = 24 * 3600  # age at which the partial folder of another machine is removed


@contextmanager
def partial_folder(folder: Path, shared: bool = False) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its name when the block ends without an error.

    Where another process has made `folder` in the meantime, that one stays and this one is discarded.
    shared: that is as good, as both hold the same. Errors: OSError where it is not, for a folder that is not empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.partial.{socket.gethostname()}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not (shared and folder.is_dir()):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_abandoned(parent: Path, name: str = "*") -> None:
    """Remove the partial folders of killed processes in `parent`: this machine's dead ones, others' after a day.

    name: of the folders that they were to become, as a pattern.
    """
    for partial in parent.glob(f"{name}.partial.*"):
        host, _, pid = partial.name.rpartition(".partial.")[2].rpartition(".")
        if not pid.isdigit():  # a person's own
            continue
        if host == socket.gethostname():
            abandoned = not psutil.pid_exists(int(pid))
        else:
            try:
                abandoned = time.time() - partial.stat().st_mtime > ABANDONED_SECONDS
            except FileNotFoundError:  # it has just been given its name
                continue
        if abandoned:
            shutil.rmtree(partial, ignore_errors=True)
