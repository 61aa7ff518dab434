"""A rank that does not go on is named, with its node and its place, and every rank's stacks are kept."""

import io
import json
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

from conf.exit_codes import HUNG
from tests.train import test_watchdog
from tests.train.test_loop import OTHER_STAGES, ROOT, command, ranks, until, write_corpora
from tests.worlds import Worlds, mesh_of
from train.watchdog import Watchdog, blame

HANG_SECONDS = 30  # a machine without time for a rank may give it none for 10
NODES = ["n1", "n1", "n2", "n2"]


def report(waits: bool, line: str = "train/loop.py:70 train_steps", begun: int = 7, waiting: str | None = None) -> dict:
    own = {"begun": {"0": begun}, "groups": {"0": [0, 1, 2, 3]}, "waiting": waiting}
    return {"place": "nl step 57", "line": line, "waits": waits, **own}


def test_a_rank_without_a_report_is_to_blame_and_it_is_said_what_the_others_wait_in() -> None:
    waits = report(True, waiting="all_reduce 7 of 4,096 elements with ranks 0-3")
    told = blame({0: waits, 1: waits, 3: waits}, NODES, 12.0)
    assert told == (
        "rank 2 on n2: no sign of life for 12 s in nl step 57; "
        "3 ranks wait in all_reduce 7 of 4,096 elements with ranks 0-3"
    )


def test_else_who_is_in_a_call_of_its_own_or_has_not_begun_what_the_others_wait_in() -> None:
    waits, place = report(True, waiting="all_reduce 7 of 8 elements with ranks 0-3"), "train/data.py:9 read"
    in_a_loop = {0: waits, 1: waits, 2: report(False, place, begun=6), 3: waits}
    assert blame(in_a_loop, NODES, 12.0).startswith(f"rank 2 on n2 at {place}: no progress for 12 s in nl step 57; 3 ")
    # On a GPU a collective is only queued: by their stacks all ranks are elsewhere, and its number tells who is late.
    queued = report(False, waiting=waits["waiting"])
    on_a_gpu = {0: queued, 1: queued, 2: report(False, place, begun=6), 3: queued}
    assert blame(on_a_gpu, NODES, 12.0) == blame(in_a_loop, NODES, 12.0)
    # One that waits for the late one in another group is late itself, but not to blame.
    chain = {0: waits, 1: report(True, begun=6, waiting="all_gather 3"), 2: report(False, place, begun=6), 3: waits}
    assert blame(chain, NODES, 12.0).startswith(f"rank 2 on n2 at {place}: ")
    all_wait = dict.fromkeys(range(4), waits)
    assert "rank 0 on n1" in blame(all_wait, NODES, 12.0) and "rank 3 on n2" in blame(all_wait, NODES, 12.0)


def hung(folder: Path) -> tuple[list[int], str]:
    """(exit codes, what is said): rank 1 is in a loop of its own, rank 0 waits for it in a collective."""
    mesh, codes, said = mesh_of(), [], io.StringIO()
    mesh.barrier()  # both are there, and wait long for the other's report
    with patch.object(sys, "stderr", said), patch("train.watchdog.OTHERS", 5.0):
        watchdog = Watchdog(folder, mesh.rank, ["a", "b"], 6.0, end=codes.append)
        watchdog.began = True
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
    assert line.startswith("error: rank 1 on b at ") and " s in nl step 3; rank 0 waits in " in line
    assert line.count("\n") == 1 and line.count("with ranks 0-1") == 1 and silence == ""
    assert "loop_of_its_own" in (tmp_path / "hangs/rank_1.txt").read_text()
    assert "barrier" in (tmp_path / "hangs/rank_0.txt").read_text()


def test_long_steps_are_no_hang_and_a_long_first_one_hides_none(tmp_path: Path) -> None:
    codes: list[int] = []
    watchdog = Watchdog(tmp_path, 0, ["a"], 20.0, end=codes.append)
    assert watchdog.timeout == 600, "before the first step"
    for step in range(4):
        watchdog.beat(f"nl step {step + 1}")
        watchdog.since -= 400.0 if step == 0 else 10.0
    assert 50 <= watchdog.timeout < 75, "5 steps of 10 s; the first, which compiles, does not count"
    watchdog.since -= 20.0
    time.sleep(1.5)  # it looks once a second
    watchdog.open("multi opening")
    assert watchdog.timeout == 600
    watchdog.close()
    assert codes == [] and not (tmp_path / "hangs").exists(), "there was none"


class Clock(threading.Thread):
    """Seconds since it was started, as those who ran saw them: where the machine is halted, its own clock jumps."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            self.seconds, last = self.seconds + min(now - last, 0.5), now


def test_a_stopped_rank_ends_the_run_in_time(tmp_path: Path) -> None:
    """kill -STOP of one rank of a real run, as torch is being loaded, and again as the next try trains.

    Within the setting on a quiet machine; the bound is for a busy one.
    """
    write_corpora(tmp_path)
    length = ["stages.nl.steps=100000", "run.save_every=100000"]  # no save that the rank might be stopped in
    length += ["cluster.restarts=1", "cluster.restart_seconds=3"]
    words = command(tmp_path, "stopped", f"health.hang_seconds={HANG_SECONDS}", "stage=nl", *length)
    words = [word for word in words if not word.startswith(OTHER_STAGES)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signs = [tmp_path / f"runs/stopped/hangs/rank_{rank}.alive" for rank in range(2)]
    while not all(path.is_file() for path in signs):
        assert process.poll() is None
        time.sleep(0.1)
    stopped = ranks(process)[1]
    stopped.send_signal(signal.SIGSTOP)
    since = Clock()
    assert process.stderr is not None
    early = next(line for line in process.stderr if line.startswith("error: "))
    assert since.seconds < 2 * HANG_SECONDS
    assert f"rank 1 on {platform.node()}: no sign of life for " in early and " s in start" in early
    list(until(process, "nl      3/"))
    stopped = ranks(process)[1]
    stopped.send_signal(signal.SIGSTOP)
    since = Clock()
    lines, noticed = list[str](), 0.0
    for line in process.stderr:
        lines += [line] if line.startswith("error: ") else []
        noticed = since.seconds if line.startswith("error: ") else noticed
        if line.startswith(f"failed with code {HUNG}; "):  # it has come further, and would be tried again
            process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 128 + signal.SIGTERM
    assert len(lines) == 1 and f"rank 1 on {platform.node()}: no sign of life for " in lines[0]
    assert " in nl step " in lines[0] and "; rank 0 waits in " in lines[0]
    head = json.loads((tmp_path / "runs/stopped/hangs/rank_0.txt").read_text().partition("\n")[0])
    assert noticed < 2 * HANG_SECONDS, f"after {noticed:.1f} s of {HANG_SECONDS}"
    assert head["waiting"] in lines[0]
