"""`python -m train` as its user meets it."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def train(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_cfg_job_prints_the_whole_typed_job() -> None:
    done = train("--cfg", "job", "model=16b", "stage=mono")
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)
    assert job["model"]["n_layer"] == 34 and job["model"]["n_embd"] == 6144
    assert job["stages"]["mono"]["peak_learning_rate"] == 5.0e-5
    assert job["stages"]["mono"]["global_batch_size"] * job["model"]["context_length"] == 2_097_152
    assert "???" not in done.stdout and "${" not in done.stdout


def test_a_wrong_job_is_one_line_and_exit_code_2() -> None:
    done = train("--cfg", "job", "model.n_head=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.n_head=3 does not divide") and done.stderr.count("\n") == 1


def test_data_that_is_not_prepared_is_said_with_the_command(tmp_path: Path) -> None:
    done = train(f"data.cache={tmp_path}", f"run.root={tmp_path / 'runs'}")
    assert done.returncode == 2
    assert "python -m train.prepare" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
