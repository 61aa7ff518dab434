"""Of several launches in one folder one trains, and what a dead one left does not block the next for long."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.errors import ConfigError, NodeError
from conf.host_processes import any_with, began, machine
from conf.run_lock import LOCK, OWNER, living_holder, new_owner, owner, run_lock, seconds_until_free, stop_file


def test_a_second_holder_is_refused_with_the_firsts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_lock(tmp_path / "run", "one", 60.0):
        who = json.loads((tmp_path / "run" / LOCK).read_text())
        assert who["owner"] == "one" and who["process"] == os.getpid() and who["host"]
        with pytest.raises(
            ConfigError, match=rf"is being trained by process {os.getpid()} on .* sign of life \d+ s ago"
        ):
            run_lock(tmp_path / "run", "two", 60.0).__enter__()
        monkeypatch.setenv(OWNER, "one")
        with run_lock(tmp_path / "run", owner(), 60.0):
            pass
        assert (tmp_path / "run" / LOCK).is_file(), "a rank that joined its launcher's lock does not give it back"
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_dead_process_left_is_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"owner": "dead", "host": "n1", "process": 7, "job": "12"}))
    with pytest.raises(ConfigError, match=r"process 7 of job 12 on n1"):
        run_lock(tmp_path, "next", 60.0).__enter__()
    os.utime(tmp_path / LOCK, (time.time() - 61, time.time() - 61))
    with run_lock(tmp_path, "next", 60.0):
        assert json.loads((tmp_path / LOCK).read_text())["owner"] == "next"


def test_what_a_killed_try_of_a_slurm_job_left_is_its_next_trys_to_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OWNER, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    (tmp_path / LOCK).write_text(json.dumps({"owner": owner(), "host": "n1", "process": 7, "job": "100"}))
    with run_lock(tmp_path, owner(), 60.0):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    monkeypatch.setenv("SLURM_JOB_ID", "101")  # the next stage's job begins at once
    with run_lock(tmp_path, owner(), 60.0):
        pass
    assert not list(tmp_path.iterdir())


def test_the_heartbeat_goes_on(tmp_path: Path) -> None:
    with run_lock(tmp_path, "one", 0.6):
        os.utime(tmp_path / LOCK, (1, 1))
        deadline = time.monotonic() + 30
        while (tmp_path / LOCK).stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_launchers_and_jobs_share_theirs_with_their_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OWNER, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert owner() != owner()
    monkeypatch.setenv("SLURM_JOB_ID", "31")
    assert owner() == "slurm-31"
    assert new_owner() != new_owner(), "of two launches in one job each has its own"
    monkeypatch.setenv(OWNER, "launcher")
    assert owner() == "launcher"


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NodeError, match=r"no space for .*run; free some, or choose run.root=\.\.\."):
        run_lock(tmp_path / "run", "one", 60.0).__enter__()
    assert not (tmp_path / "run").exists()


def test_the_living_holder_is_told_and_what_dead_ones_left_is_gone(tmp_path: Path) -> None:
    stop_file(tmp_path, "dead").touch()
    with run_lock(tmp_path, "one", 60.0):
        assert not stop_file(tmp_path, "dead").exists()
        assert (living_holder(tmp_path) or {})["owner"] == "one"
        os.utime(tmp_path / LOCK, (time.time() - 61, time.time() - 61))
        assert living_holder(tmp_path) is None
    assert living_holder(tmp_path) is None


def lock_of(folder: Path, owner: str, process: int, began_at: int | None, machine_name: str | None) -> None:
    """A lock that was given a sign of life just now."""
    who = {"owner": owner, "host": "n1", "process": process, "began": began_at, "machine": machine_name}
    (folder / LOCK).write_text(json.dumps({**who, "stale_seconds": 60.0}))


@pytest.mark.skipif(machine() is None, reason="no /proc")
def test_of_a_launch_here_that_was_killed_the_lock_is_free_once_its_ranks_have_ended(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env={**os.environ, OWNER: "one"})
    while not any_with(OWNER, "one"):  # it has not become that program yet
        time.sleep(0.01)
    lock_of(tmp_path, "one", holder.pid, began(holder.pid), machine())
    for ended in (holder, rank):
        assert 50 < seconds_until_free(tmp_path) <= 60
        with pytest.raises(ConfigError, match="is being trained by process"):
            run_lock(tmp_path, "next", 60.0).__enter__()
        ended.kill()
        ended.wait()
    assert seconds_until_free(tmp_path) == 0
    with run_lock(tmp_path, "next", 60.0, all_here=True):
        who = json.loads((tmp_path / LOCK).read_text())
        assert (who["machine"], who["began"]) == (machine(), began(os.getpid()))
        assert seconds_until_free(tmp_path) > 50


@pytest.mark.skipif(machine() is None, reason="no /proc")
def test_a_dead_process_is_known_only_where_its_id_has_a_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_of(tmp_path, "one", os.getpid(), 1, machine())
    assert seconds_until_free(tmp_path) == 0, "the id has come again"
    for elsewhere in ("another boot or container", None):
        lock_of(tmp_path, "one", os.getpid(), 1, elsewhere)
        assert seconds_until_free(tmp_path) > 50
    lock_of(tmp_path, "one", os.getpid(), 1, machine())
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)  # a user who cannot see the other's ranks
    assert seconds_until_free(tmp_path) > 50
    with pytest.raises(ConfigError, match="is being trained by process"):
        run_lock(tmp_path, "next", 60.0).__enter__()


def test_of_two_that_find_it_left_the_second_does_not_take_it_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_of(tmp_path, "dead", 7, None, None)
    os.utime(tmp_path / LOCK, (1, 1))
    rename = Path.rename

    def overtaken(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        path.unlink()
        lock_of(tmp_path, "first", os.getpid(), None, None)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    with pytest.raises(ConfigError, match="is being trained by process"):
        run_lock(tmp_path, "second", 60.0).__enter__()
    assert json.loads((tmp_path / LOCK).read_text())["owner"] == "first"
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
