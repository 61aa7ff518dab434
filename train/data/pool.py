"""Shards made by several processes, each whole or not at all; a restart makes only those that are missing.

The engine is Python's own `concurrent.futures` (README.md says why): its pool notices a process that was killed.
"""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from conf.errors import DataError
from conf.partial_folder import remove_abandoned
from train.data.progress import Done
from train.data.shard import ShardTask, read_record, write_shard

SMALL_BYTES = 16 << 20  # of input, which one process reads before others have started


@dataclass
class _Group:
    """Shards of which the first are made until they hold `limit` bytes of kept text."""

    tasks: list[ShardTask]
    limit: int | None
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)  # of records, shards that were there before
    begun: int = 0
    first: int = 0  # the shard to begin with, where there is no limit

    def next(self) -> int | None:
        """The shard to begin next; None where there is enough, or no other. What is there is taken as it is."""
        while self.begun < len(self.tasks) and (self.limit is None or self._bytes() < self.limit):
            number = (self.first + self.begun) % len(self.tasks)
            self.begun += 1
            record = read_record(self.tasks[number].folder)
            if record is None:
                return number
            self.records[number] = record
            self.found.add(number)
        return None

    def enough(self) -> list[tuple[ShardTask, dict[str, Any]]]:
        """The fewest first shards that hold `limit` bytes: the same ones however many processes were at work."""
        kept, total = [], 0
        for number in sorted(self.records):
            if self.limit is not None and total >= self.limit:
                break
            kept.append((self.tasks[number], self.records[number]))
            total += self.records[number]["bytes"]
        return kept

    def share(self, numbers: Iterable[int]) -> float:
        """How much of the group's input the shards `numbers` are; of one with a limit, how much of that they hold."""
        if self.limit is not None:
            held = (self.records[number]["bytes"] if number in self.records else 0 for number in numbers)
            return min(1.0, sum(held) / max(1, self.limit))
        sizes = [task.shard.bytes or 1 for task in self.tasks]
        return sum(sizes[number] for number in numbers) / sum(sizes)

    def weight(self) -> int:
        """Bytes that the group comes to, as far as they are known."""
        return self.limit or sum(task.shard.bytes for task in self.tasks) or 1

    def _bytes(self) -> int:
        return sum(record["bytes"] for record in self.records.values())


def make_shards(
    tasks: list[ShardTask], workers: int | None, progress: Callable[[Done], None]
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
    running: dict[Future[dict[str, Any]], tuple[_Group, int]] = {}
    workers = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    small = sum(task.shard.bytes for task in tasks) < SMALL_BYTES and all(task.shard.parts for task in tasks)
    made = _in_turn(groups) if workers == 1 or small else _together(groups, workers, running)
    for group, number, record in made:
        group.records[number] = record
        progress(_done([*groups.values()], [*running.values()]))
    return [one for group in groups.values() for one in group.enough()]


def _done(groups: list[_Group], running: list[tuple[_Group, int]]) -> Done:
    total = sum(group.weight() for group in groups)
    records = [record for group in groups for record in group.records.values()]
    counts = {name: sum(record[name] for record in records) for name in ("bytes", "documents", "tokens")}
    return Done(
        finished=sum(group.weight() * group.share(group.records) for group in groups) / total,
        found=sum(group.weight() * group.share(group.found) for group in groups) / total,
        running=sum(group.weight() * group.share([number]) for group, number in running) / total,
        **counts,
    )


Made = Iterator[tuple[_Group, int, dict[str, Any]]]


def _in_turn(groups: dict[tuple[str, int], _Group]) -> Made:
    for group in groups.values():
        while (number := group.next()) is not None:
            yield group, number, write_shard(group.tasks[number])


def _together(
    groups: dict[tuple[str, int], _Group], workers: int, running: dict[Future[dict[str, Any]], tuple[_Group, int]]
) -> Made:
    """As `_in_turn`, in `workers` processes. However it ends, none of them is left."""
    others = multiprocessing.active_children()
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker)
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
            "command resumes, and data.workers=... starts fewer at once"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        own = [process for process in multiprocessing.active_children() if process not in others]
        for process in own:
            process.terminate()
        for process in own:
            process.join()
        for parent in {group.tasks[0].folder.parent for group in groups.values()}:
            remove_abandoned(parent)  # what they were writing: where the disk is full, its space is needed


def _begin_worker() -> None:
    """A signal at the terminal reaches every process: the main one decides. One without its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
