"""Importing the package."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_machine_without_a_gpu_is_none_to_warn_of() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    words = [sys.executable, "-c", "import parallel.zero"]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, env=variables, capture_output=True, text=True, check=True)
    assert "accelerator" not in done.stdout + done.stderr
