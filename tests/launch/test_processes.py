"""Exit code and output of a command; ranks that wait for a dead one are ended. Signals: tests/launch/test_main.py."""

import os
import sys
from pathlib import Path

import pytest

from launch.processes import run

# Starts two ranks, as a launcher does, and ends with the sum of their exit codes.
LAUNCHER = """
import os, subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"RANK": str(n)}) for n in range(2)]
sys.exit(min(255, sum(abs(rank.wait()) for rank in ranks)))
"""


@pytest.mark.parametrize("code", [0, 2, 7])
def test_the_exit_code_is_the_command_s_and_the_log_has_its_output(
    code: int, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    program = f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({code})"
    assert run([sys.executable, "-c", program], dict(os.environ), 5.0, tmp_path / "log") == code
    captured = capfdbinary.readouterr()
    assert b"out\n" in captured.out and b"err\n" in captured.err
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


def test_a_rank_that_waits_for_a_dead_one_is_ended_and_the_dead_one_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rank = "import os, time; time.sleep(10 if os.environ['RANK'] == '1' else 600)"  # rank 0 waits in a collective
    log = tmp_path / "log"
    assert run([sys.executable, "-c", LAUNCHER, rank], dict(os.environ), grace_seconds=1.0, log=log) == 9
    assert "error: rank 1 (process " in capfd.readouterr().err
    assert log.read_text().startswith("error: rank 1 (process "), "where `launch status` looks for it"


def test_a_command_that_a_signal_killed_has_a_shell_s_code() -> None:
    assert run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], dict(os.environ), 1.0) == 137


def test_a_full_disk_does_not_stop_the_ranks(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Their output would fill the pipe that nobody empties."""
    program = "for n in range(20000): print('step', n)"
    assert run([sys.executable, "-c", program], dict(os.environ), 5.0, Path("/dev/full")) == 0
    assert capfdbinary.readouterr().out.endswith(b"step 19999\n")
