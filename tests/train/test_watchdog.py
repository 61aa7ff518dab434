"""A rank that does not go on is named, with its node and its place, and every rank's stacks are kept."""

import io
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

from conf.exit_codes import HUNG
from tests.train import test_watchdog
from tests.train.test_loop import OTHER_STAGES, ROOT, command, ranks, until, write_corpora
from tests.worlds import Worlds, mesh_of
from train.watchdog import Watchdog, blame

NODES = ["n1", "n1", "n2", "n2"]


def report(waits: bool, line: str = "train/loop.py:70 train_steps") -> dict:
    return {"place": "nl step 57", "line": line, "waits": waits}


def test_a_rank_without_a_report_is_to_blame_else_those_that_do_not_wait() -> None:
    reports = {0: report(True), 1: report(True), 3: report(True)}
    assert blame(reports, NODES, 12.0) == ("rank 2 on n2: no sign of life for 12 s in nl step 57, and the others wait")
    reports[2] = report(False, "train/data.py:9 read")
    assert blame(reports, NODES, 12.0) == "rank 2 on n2 at train/data.py:9 read: no progress for 12 s in nl step 57"


def hung(folder: Path) -> tuple[list[int], str]:
    """(exit codes, what is said): rank 1 is in a loop of its own, rank 0 waits for it in a collective."""
    mesh, codes, said = mesh_of(), [], io.StringIO()
    with patch.object(sys, "stderr", said):
        watchdog = Watchdog(folder, mesh.rank, ["a", "b"], 1.0, end=codes.append)
        watchdog.longest_step = 0.01
        watchdog.beat("nl step 3")
        if mesh.rank == 1:
            loop_of_its_own(folder)
        mesh.barrier()
        while not codes:
            time.sleep(0.05)
        watchdog.close()
    return codes, said.getvalue()


def loop_of_its_own(folder: Path) -> None:
    while not all((folder / f"hangs/rank_{rank}.txt").exists() for rank in range(2)):
        time.sleep(0.05)
    time.sleep(1)


def test_a_hang_is_told_once_with_the_stacks_of_all(tmp_path: Path, worlds: Worlds) -> None:
    (first, line), (second, silence) = worlds(2).run(test_watchdog.hung, tmp_path)
    assert first == second == [HUNG]
    assert line.startswith("error: rank 1 on b at ") and "no progress for 1 s in nl step 3" in line
    assert line.count("\n") == 1 and silence == ""
    assert "loop_of_its_own" in (tmp_path / "hangs/rank_1.txt").read_text()
    assert "barrier" in (tmp_path / "hangs/rank_0.txt").read_text()


def test_a_long_step_is_no_hang(tmp_path: Path) -> None:
    codes: list[int] = []
    watchdog = Watchdog(tmp_path, 0, ["a"], 0.2, end=codes.append)
    assert watchdog.timeout == 600, "before the first step"
    watchdog.beat("nl step 1")
    watchdog.since -= 0.15
    watchdog.beat("nl step 2")
    assert watchdog.timeout > 2.9, "20 steps of 0.15 s"
    time.sleep(0.5)
    watchdog.close()
    assert codes == []


def test_a_stopped_rank_ends_the_run_within_the_setting(tmp_path: Path) -> None:
    """kill -STOP of one rank of a real run: today's limit of a collective would be half an hour."""
    write_corpora(tmp_path)
    words = command(tmp_path, "stopped", "health.hang_seconds=5", "stage=nl", "stages.nl.steps=100000")
    words = [word for word in words if not word.startswith(OTHER_STAGES)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    list(until(process, "nl      3/"))
    ranks(process)[1].send_signal(signal.SIGSTOP)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == HUNG
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and f"rank 1 on {platform.node()}: no sign of life for " in lines[0]
    assert (tmp_path / "runs/stopped/hangs/rank_0.txt").is_file()
