"""Shards made by several processes, each whole or not at all; a restart makes only those that are missing.

The engine is Python's own `concurrent.futures` (README.md says why): its pool notices a process that was killed.
"""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from conf.errors import DataError
from train.data.shard import ShardTask, write_shard

SMALL_BYTES = 16 << 20  # of input, which one process reads before others have started

Progress = Callable[[int, int, int], None]  # bytes, documents and tokens so far


@dataclass
class _Group:
    """Shards of which the first are made until they hold `limit` bytes of kept text."""

    tasks: list[ShardTask]
    limit: int | None
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    begun: int = 0
    first: int = 0  # the shard to begin with, where there is no limit

    def next(self) -> int | None:
        """The shard to begin next; None where there is enough, or no other."""
        if self.begun == len(self.tasks) or (self.limit is not None and self._bytes() >= self.limit):
            return None
        self.begun += 1
        return (self.first + self.begun - 1) % len(self.tasks)

    def enough(self) -> list[tuple[ShardTask, dict[str, Any]]]:
        """The fewest first shards that hold `limit` bytes: the same ones however many processes were at work."""
        kept, total = [], 0
        for number in sorted(self.records):
            if self.limit is not None and total >= self.limit:
                break
            kept.append((self.tasks[number], self.records[number]))
            total += self.records[number]["bytes"]
        return kept

    def _bytes(self) -> int:
        return sum(record["bytes"] for record in self.records.values())


def make_shards(
    tasks: list[ShardTask], workers: int | None, progress: Progress
) -> list[tuple[ShardTask, dict[str, Any]]]:
    """Make the shards, those of each group up to its limit; return those that are needed with their records, in order.

    workers: processes; None: one a core that this process may use.
    Errors: `DataError` as in `write_shard`, and where a process was killed. What is finished stays.
    """
    groups: dict[tuple[str, int], _Group] = {}
    for task in tasks:
        shard = task.shard
        groups.setdefault((shard.key, shard.group), _Group([], shard.limit_bytes)).tasks.append(task)
    if tasks and any(tasks[0].folder.parent.glob("*.partial.*")):  # another preparation is at work: meet it half-way
        for group in groups.values():
            group.first = 0 if group.limit is not None else random.randrange(len(group.tasks))
    done = [0, 0, 0]
    workers = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    small = sum(task.shard.bytes for task in tasks) < SMALL_BYTES and all(task.shard.parts for task in tasks)
    made = _in_turn(groups) if workers == 1 or small else _together(groups, workers)
    for group, number, record in made:
        group.records[number] = record
        done = [before + record[name] for before, name in zip(done, ("bytes", "documents", "tokens"), strict=True)]
        progress(*done)
    return [one for group in groups.values() for one in group.enough()]


Made = Iterator[tuple[_Group, int, dict[str, Any]]]


def _in_turn(groups: dict[tuple[str, int], _Group]) -> Made:
    for group in groups.values():
        while (number := group.next()) is not None:
            yield group, number, write_shard(group.tasks[number])


def _together(groups: dict[tuple[str, int], _Group], workers: int) -> Made:
    """As `_in_turn`, in `workers` processes. However it ends, none of them is left."""
    others = multiprocessing.active_children()
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker)
    running: dict[Future[dict[str, Any]], tuple[_Group, int]] = {}
    try:
        while True:
            for group in groups.values():
                while len(running) < 2 * workers and (number := group.next()) is not None:
                    running[executor.submit(write_shard, group.tasks[number])] = (group, number)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield *running.pop(future), future.result()
    except BrokenProcessPool:
        raise DataError(
            "a process of the preparation was killed, perhaps for want of memory; what it finished is kept: the same "
            "command goes on, and data.workers=... starts fewer at once"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        own = [process for process in multiprocessing.active_children() if process not in others]
        for process in own:
            process.terminate()
        for process in own:
            process.join()


def _begin_worker() -> None:
    """A signal at the terminal reaches every process: the main one decides. One without its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
