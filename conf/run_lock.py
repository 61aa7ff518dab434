"""One writer a run: a lock beside its files that says who holds it, and whose time of change is the holder's heartbeat.

Nothing else tells on every kind of machine whether a run is under way: a process id is of one host, a scheduler may not
answer. It is made by a hard link, which succeeds once on any file system, network file systems included. Only a lock
whose processes are all on this very machine is known to be left at once: where none of them lives any more.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.errors import ConfigError, NodeError, node_name
from conf.exit_codes import BAD_NODE
from conf.host_processes import any_with, began, machine

LOCK = "lock.json"
STOP = "stop"  # begins the names of `stop_file`
OWNER = "RUN_LOCK_OWNER"  # environment variable by which a launcher hands its lock to the ranks
PR_SET_PDEATHSIG = 1  # linux/prctl.h
BEATS = 6.0  # heartbeats in the time after which a lock counts as left


def owner() -> str:
    """Who this process trains for: its launcher, its Slurm job, or itself."""
    job = os.environ.get("SLURM_JOB_ID")
    return os.environ.get(OWNER) or (f"slurm-{job}" if job else new_owner())


def new_owner() -> str:
    """A name that no other process has: several launches may share a Slurm job."""
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"


def stop_file(folder: Path, holder: str) -> Path:
    """The file by which a launcher asks its ranks on other hosts to stop, whenever they look; no other launch's."""
    return folder / f"{STOP}.{holder}"


def is_of_lock(path: Path) -> bool:
    """Whether a file in a run's folder belongs to its lock, and says nothing of a run."""
    return path.name == LOCK or path.name.startswith((f".{LOCK}.", f"{STOP}."))


def living_holder(folder: Path) -> dict[str, Any] | None:
    """Who holds the run in `folder`, as its lock says, where the lock's heartbeat is no older than it may be."""
    found = _read(folder / LOCK)
    try:
        silent = time.time() - (folder / LOCK).stat().st_mtime
    except OSError:
        return None
    return found if silent <= found.get("stale_seconds", 0) else None


def seconds_until_free(folder: Path) -> float:
    """How long a launch in `folder` is refused, where no more signs of life come; 0 where it is not."""
    found = living_holder(folder)
    try:
        if found is None or _left_by_the_dead(folder / LOCK, found):
            return 0.0
        silent = time.time() - (folder / LOCK).stat().st_mtime
    except OSError:  # given back just now
        return 0.0
    return max(float(found.get("stale_seconds", 0)) - silent, 0.0)


@contextlib.contextmanager
def run_lock(folder: Path, holder: str, stale_seconds: float, all_here: bool = False) -> Iterator[None]:
    """Hold the run in `folder` for `holder`; a rank joins the lock of its launcher, which gives it back.

    What an earlier try of the same Slurm job left is taken at once: Slurm has ended it.
    stale_seconds: a lock without a heartbeat for so long was left by a process that died, and is taken.
    all_here: every process that writes is on this machine and has `holder` in its environment (`OWNER`): once all of
    them have ended, the next launch here takes the lock without waiting.
    Errors: `ConfigError` naming who holds it, or that the folder cannot be written; `NodeError` where the disk is full.
    Where it is lost to another, this process ends (exit code 3).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        joined = not _take(folder, holder, stale_seconds, all_here)
    except OSError as error:
        with contextlib.suppress(OSError):  # it was made for nothing
            folder.rmdir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NodeError(f"{node_name()}: no space for {folder}; free some, or choose run.root=...") from None
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}); choose another place with run.root=..."
        ) from None
    path = folder / LOCK
    if not joined:
        for left in folder.glob(f"{STOP}.*"):  # by a launcher that was killed
            left.unlink(missing_ok=True)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, holder, stale_seconds, ended), name="lock", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if not joined:
            stop_file(folder, holder).unlink(missing_ok=True)
        if not joined and _holder(path) == holder:
            path.unlink(missing_ok=True)


def end_with_parent() -> None:
    """Have the kernel end this process with the one that started it (Linux), also when that one is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _take(folder: Path, holder: str, stale_seconds: float, all_here: bool) -> bool:
    """True where the lock was taken, false where `holder` is the launcher of this process and has it."""
    path, own = folder / LOCK, folder / f".{LOCK}.{os.getpid()}"
    who = {"owner": holder, "host": node_name(), "process": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
    place = {"machine": machine(), "began": began(os.getpid())} if all_here else {}
    try:
        own.write_text(json.dumps({**who, **place, "stale_seconds": stale_seconds}))
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                os.link(own, path)
                return True
            try:
                silent = own.stat().st_mtime - path.stat().st_mtime  # both by the file system's clock
            except FileNotFoundError:
                continue  # given back just now
            found = _read(path)
            if found.get("owner") == holder:
                if os.environ.get(OWNER) == holder:
                    return False
                own.replace(path)
                return True
            if silent <= stale_seconds and not _left_by_the_dead(path, found):
                raise ConfigError(_held_by(folder, found, silent, stale_seconds))
            left = folder / f".{LOCK}.left.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                path.rename(left)  # of two that find it stale, one
                if _read(left) != found:  # another one took it since it was read
                    with contextlib.suppress(FileExistsError):
                        os.link(left, path)
                left.unlink()
        raise ConfigError(f"{folder} was taken by another process at this moment; see `python -m launch status`")
    finally:
        own.unlink(missing_ok=True)


def _left_by_the_dead(path: Path, who: dict[str, Any]) -> bool:
    """Whether the process that took the lock has ended, and every one that it started; false where that is not known.

    Of another user's lock it is not: the environment of their processes cannot be read.
    """
    here = machine()
    if here is None or who.get("machine") != here or path.stat().st_uid != os.geteuid():
        return False
    return began(who["process"]) != who["began"] and not any_with(OWNER, who["owner"])  # the dead start no more


def _beat(path: Path, holder: str, stale_seconds: float, ended: threading.Event) -> None:
    """Touch the lock until `ended`. A process that another one took the run from, as it was stopped, must not write."""
    while not ended.wait(stale_seconds / BEATS):
        found = _holder(path)
        if found is not None and found != holder:
            print(f"error: {node_name()}: {path.parent} was taken by {found} meanwhile", file=sys.stderr, flush=True)
            os._exit(BAD_NODE)
        with contextlib.suppress(OSError):
            os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _holder(path: Path) -> str | None:
    """The owner that a lock names; None without one."""
    return _read(path).get("owner")


def _held_by(folder: Path, who: dict[str, Any], silent: float, stale_seconds: float) -> str:
    job = f" of job {who['job']}" if who.get("job") else ""
    return (
        f"{folder} is being trained by process {who.get('process')}{job} on {who.get('host')}, which gave a sign of "
        f"life {max(silent, 0):.0f} s ago; end it with `python -m launch cancel {folder}`, or, if it is dead, try "
        f"again in {max(stale_seconds - silent, 0):.0f} s"
    )
