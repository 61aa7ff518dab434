"""`python -m tests.gpu`: what it keeps of a part, and its refusal where there is no GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import PARTS, TOGETHER, section

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: python -m tests.gpu runs")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    command = [sys.executable, "-m", "tests.gpu", "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "error: no CUDA device; python -m tests.gpu runs on one GPU\n")
    assert not results.exists()


def test_a_part_that_printed_a_table_is_kept_as_that_table() -> None:
    output = "starting\n\n4 layers, bf16.\n\n| | tokens/s |\n|---|---:|\n| this_stack | 5 |\nbye\n"
    kept = section("350m", "python -m x", 3.2, 0, output)
    assert kept == "\n`python -m x` (350m, 3 s):\n\n4 layers, bf16.\n\n| | tokens/s |\n|---|---:|\n| this_stack | 5 |\n"


def test_a_part_that_failed_is_kept_with_its_code_and_last_line() -> None:
    assert section("tests", "python -m y", 60, 124, "a\nlast\n").endswith("(tests, 60 s, exit code 124):\n\nlast\n")


def test_the_limits_of_all_parts_are_ten_minutes_together() -> None:
    assert sum(max(PARTS[name][1] for name in group) for group in TOGETHER) <= 600
    assert [name for group in TOGETHER for name in group] == list(PARTS)


def test_every_file_with_a_gpu_test_is_run() -> None:
    named = [
        ROOT / word for name in ("tests", "parity") for word in PARTS[name][0].split() if word.startswith("tests/")
    ]
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()} - {Path(__file__)}
    assert marked and all(any(path.is_relative_to(one) for one in named) for path in marked)
