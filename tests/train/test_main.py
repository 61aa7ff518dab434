"""`python -m train` as its user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from train.__main__ import own_cores

ROOT = Path(__file__).parents[2]


def train(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_cfg_job_prints_the_whole_typed_job() -> None:
    done = train("--cfg", "job", "model=16b", "stage=mono")
    assert done.returncode == 0, done.stderr
    composed = yaml.safe_load(done.stdout)
    assert composed["model"]["n_layer"] == 34 and composed["model"]["n_embd"] == 6144
    assert composed["stages"]["mono"]["peak_learning_rate"] == 5.0e-5
    assert composed["stages"]["mono"]["global_batch_size"] * composed["model"]["context_length"] == 2_097_152
    assert "???" not in done.stdout and "${" not in done.stdout


def test_a_wrong_job_is_one_line_and_exit_code_2() -> None:
    done = train("--cfg", "job", "model.n_head=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.n_head=3 does not divide") and done.stderr.count("\n") == 1


def test_data_that_is_not_prepared_is_said_with_the_command(tmp_path: Path) -> None:
    done = train(f"data.cache={tmp_path}", f"run.root={tmp_path / 'runs'}")
    assert done.returncode == 2
    assert "python -m train.data prepare" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("cores", "size", "shares"),
    [
        ([0, 1, 2, 3], 1, [[0, 1, 2, 3]]),
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 2, 4, 6, 8], 2, [[0, 2], [4, 6, 8]]),
        ([3, 7], 2, [[3], [7]]),
        ([0, 1], 4, [[0], [1], [0], [1]]),
    ],
)
def test_each_rank_has_its_share(cores: list[int], size: int, shares: list[list[int]]) -> None:
    assert [own_cores(cores, rank, size) for rank in range(size)] == shares
