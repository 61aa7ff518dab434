"""Which processes live, on this very machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.host_processes import any_with, began, machine

pytestmark = pytest.mark.skipif(machine() is None, reason="no /proc")


def test_a_process_is_known_by_its_start_and_its_environment() -> None:
    mark = f"{os.getpid()} here"
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        env={**os.environ, "HOST_PROCESSES_TEST": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert (began(process.pid) or 0) >= (began(os.getpid()) or 0) > 0
        assert any_with("HOST_PROCESSES_TEST", mark)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert began(process.pid) is None, "it has ended, and is a zombie"
    assert began(process.pid) is None
    assert not any_with("HOST_PROCESSES_TEST", mark)


def test_where_nothing_is_known_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conf.host_processes.PROC", tmp_path)
    assert machine() is None and began(os.getpid()) is None and not any_with("HOME", "/")
