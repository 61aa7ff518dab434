"""`python -m tests.gpu`: what it keeps of a part, and its refusal where there is no GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import PARTS, section

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
    assert sum(seconds for _, seconds in PARTS.values()) <= 600
