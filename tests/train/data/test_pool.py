"""Processes that make shards: as many as are needed, in an order that does not depend on them; a killed one is told."""

import multiprocessing
import os
import signal
import socket
import time
from dataclasses import replace

import pytest

from conf.errors import DataError
from tests.train.data.conftest import text, write_jsonl
from train.data.pool import make_shards
from train.data.prepare import prepare
from train.data.shard import ShardTask, list_shards, shard_name, write_shard
from train.data.tokenizer import prepare_tokenizer


@pytest.fixture
def tasks(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 5000)
    corpus, tokenizer = settings.data.corpora["nl"], prepare_tokenizer(settings)
    return [
        ShardTask(
            shard,
            corpus,
            settings.data,
            tokenizer,
            "<u2",
            tmp_path / "s" / shard_name(shard, corpus, settings.data, ""),
            settings.model.context_length,
        )
        for shard in list_shards("nl", corpus)
    ]


def test_the_first_shards_that_are_enough_are_made(tasks, settings):
    sizes = [record["bytes"] for _, record in make_shards(tasks, 1, lambda *_: None)]
    assert len(sizes) == len(tasks) > 5
    counted = []
    limit, other = sum(sizes[:2]) + 1, tasks[0].folder.parent / "bounded"
    bounded = [
        replace(task, shard=replace(task.shard, limit_bytes=limit), folder=other / task.folder.name) for task in tasks
    ]
    made = make_shards(bounded, 1, lambda *counts: counted.append(counts))
    assert [task for task, _ in made] == bounded[:3]
    assert counted[-1][0].bytes == sum(sizes[:3]) and counted[-1][0].finished == 1


def test_a_killed_process_is_one_line_and_what_is_finished_stays(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.pool.SMALL_BYTES", 0)
    monkeypatch.setattr("train.data.pool.write_shard", killed_in_the_second)
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 5000)
    settings.data.workers = 2
    others = set(multiprocessing.active_children())  # the session's worlds
    with pytest.raises(DataError, match=r"a process of the preparation was killed.*data\.workers=") as error:
        prepare(settings, lambda line: None)
    assert "\n" not in str(error.value)
    assert none_left(others)
    assert not list((tmp_path / "cache/shards").glob("*.partial.*")), "what it was writing is removed at once"
    finished = set((tmp_path / "cache/shards").glob("*/shard.json"))
    monkeypatch.undo()
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 5000)
    settings.data.workers = 1
    prepare(settings, lambda line: None)
    assert finished < set((tmp_path / "cache/shards").glob("*/shard.json"))


def none_left(others):
    """Whether only `others` run, soon: a child that another thread has waited for is listed a moment longer."""
    until = time.monotonic() + 30
    while not (alone := set(multiprocessing.active_children()) <= others) and time.monotonic() < until:
        time.sleep(0.05)
    return alone


def killed_in_the_second(task):
    """In a worker: make a shard, unless another is finished already; then die as the kernel's killer makes one die."""
    if list(task.folder.parent.glob("*/shard.json")):
        os.kill(os.getpid(), signal.SIGKILL)
    return write_shard(task)


def test_an_error_of_a_process_is_the_preparations(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.pool.SMALL_BYTES", 0)
    settings.data.workers = 2
    prepare_tokenizer(settings)
    settings.data.tokenizer.path = str(next((tmp_path / "cache/tokenizers").iterdir()))
    write_jsonl(tmp_path / "nl.jsonl", [text(1)])
    with (tmp_path / "nl.jsonl").open("a") as file:
        file.write("{\n")
    others = set(multiprocessing.active_children())  # the session's worlds
    with pytest.raises(DataError, match=r"nl\.jsonl:2 is not JSON"):
        prepare(settings, lambda line: None)
    assert none_left(others)


def test_a_preparation_beside_another_begins_elsewhere_and_takes_what_is_finished(tasks, monkeypatch):
    begun = []

    def noted(task):
        begun.append(tasks.index(task))
        return write_shard(task)

    monkeypatch.setattr("train.data.pool.write_shard", noted)
    monkeypatch.setattr("train.data.pool.random.randrange", lambda count: count - 2)
    (tasks[0].folder.parent / f"x.partial.{socket.gethostname()}.{os.getpid()}").mkdir(parents=True)
    made = make_shards(tasks, 1, lambda *_: None)
    last = len(tasks) - 1
    assert begun == [last - 1, last, *range(last - 1)]
    assert [task for task, _ in made] == tasks, "in the order of the corpus all the same"


def test_what_is_told_of_the_work_adds_up(tasks):
    told = []
    make_shards(tasks[:4], 1, told.append)
    make_shards(tasks, 1, told.append)
    shares = [done.finished for done in told]
    assert shares[3] == 1 and 0.1 < shares[0] < 0.4 and told[3].found == 0
    assert len(told) == len(tasks), "a shard that was there is not made again"
    assert 0 < told[4].found < told[4].finished < shares[-1] == 1 and told[-1].found == told[4].found
    assert told[-1].documents == 300 and told[-1].running == 0
