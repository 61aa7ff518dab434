"""A host's ranks end with the launch: asked to save, or killed where it had asked them before."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANK = """
import os, signal, sys, time
signal.signal(15, lambda *_: (print('asked', flush=True), sys.exit(75) if sys.argv[1] == 'saves' else None))
print('up', flush=True)
while True:
    time.sleep(0.1)
"""


def start(stop: Path, kind: str) -> subprocess.Popen[str]:
    launcher = (
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {RANK!r}, {kind!r}]).returncode)"
    )
    words = [sys.executable, "-m", "launch.host", str(stop), "5", "1", sys.executable, "-c", launcher]
    variables = {**os.environ, "RANK": "0"}
    return subprocess.Popen(words, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("kind", "asked_before", "code"), [("saves", False, 75), ("does not stop", True, 143)])
def test_the_end_of_the_launch_ends_the_ranks(kind: str, asked_before: bool, code: int, tmp_path: Path) -> None:
    host = start(tmp_path / "stop", kind)
    assert host.stdin is not None and host.stdout is not None
    assert host.stdout.readline() == "up\n"
    if asked_before:
        (tmp_path / "stop").touch()
    host.stdin.close()
    assert host.stdout.readline() == "asked\n"
    assert host.wait(60) == code


@pytest.mark.parametrize("gpus", ["", "0,1"])
def test_the_host_finds_out_what_its_ranks_environment_owes_to_it(gpus: str, tmp_path: Path) -> None:
    """The machine that launched may have no GPU, or other cores."""
    shows = f"import os; open({str(tmp_path / 'shown')!r}, 'w').write(repr(dict(os.environ)))"
    words = [sys.executable, "-m", "launch.host", str(tmp_path / "stop"), "5", "1000", sys.executable, "-c", shows]
    unset = ("DS_ACCELERATOR", "OMP_NUM_THREADS", "MALLOC_MMAP_MAX_")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables["CUDA_VISIBLE_DEVICES"] = gpus
    host = subprocess.Popen(words, cwd=ROOT, env=variables, stdin=subprocess.PIPE)
    assert host.wait(60) == 0
    found = ast.literal_eval((tmp_path / "shown").read_text())
    assert found["OMP_NUM_THREADS"] == "1"
    assert (found.get("DS_ACCELERATOR") == "cpu") == ("MALLOC_MMAP_MAX_" in found) == (gpus == "")


def test_output_that_nobody_reads_stops_no_rank(tmp_path: Path) -> None:
    """The launch was killed, and with it the ssh that its output went to: the ranks still save themselves."""
    host = start(tmp_path / "stop", "saves")
    assert host.stdin is not None and host.stdout is not None
    assert host.stdout.readline() == "up\n"
    host.stdout.close()
    host.stdin.close()
    assert host.wait(60) == 75
