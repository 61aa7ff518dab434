"""Runs as their folders and the queue tell of them: in every state, and half-written."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.run_folder import save_settings
from conf.run_lock import run_lock
from launch.__main__ import main
from launch.control import cancel, logs, sync
from launch.jobs import add_job, read_jobs
from launch.status import active_job, queue_of, runs_below, status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of the stages nl and multi, 120 steps each, that is at step 60 of nl."""
    folder = tmp_path / "runs" / "mine"
    save_settings(compose_settings(["stage=nl,multi"]), folder)
    (folder / "jobs").mkdir()
    rows = [{"stage": "nl", "step": step, "loss": 9.0 - step / 10, "tokens_per_second": 4096.0} for step in (1, 30, 60)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def finish(run: Path, *stages: str) -> None:
    for stage in stages:
        (run / "stages" / stage / "weights").mkdir(parents=True)
        (run / "stages" / stage / "evaluation.json").write_text("{}")


def slurm_job(run: Path, id: str, *stages: str) -> None:
    add_job(run, "slurm", id, list(stages), "", f"jobs/{stages[0]}-{id}.log", f"jobs/{stages[0]}.exit")


def test_a_queued_chain(run: Path) -> None:
    slurm_job(run, "7", "nl")
    slurm_job(run, "8", "multi")
    queue = {"7": ("running", "None"), "8": ("pending", "Dependency")}
    row = status(run, queue)
    assert (row.run, row.state, row.stage, row.step, row.steps) == ("mine", "running", "nl", 60, 120)
    assert (row.loss, row.tokens_per_second, row.job, row.note) == (3.0, 4096.0, "7", "")
    assert row.seconds_left == (60 + 120) * 16 * 256 / 4096
    assert active_job(run, queue) == "job 7 (running)"
    waiting = status(run, {"8": ("pending", "Dependency")})
    assert (waiting.state, waiting.job, waiting.note) == ("pending", "8", "Dependency")


def test_what_was_saved_after_the_newest_record_counts_and_a_first_step_tells_no_speed(run: Path) -> None:
    (run / "stages/nl/checkpoints/step_00000065").mkdir(parents=True)
    assert status(run, {}).step == 65
    (run / "stages/nl/checkpoints/step_00000065").rename(run / "stages/nl/checkpoints/step_00000050")
    assert status(run, {}).step == 60, "a return to a checkpoint"
    row = {"stage": "nl", "step": 1, "loss": 9.0, "tokens_per_second": 4.0, "start_seconds": 60.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    slurm_job(run, "7", "nl")
    found = status(run, {"7": ("running", "None")})
    assert (found.step, found.tokens_per_second, found.seconds_left) == (50, None, None)


def test_how_it_ended(run: Path) -> None:
    slurm_job(run, "7", "nl")
    assert status(run, {}).state == "killed"
    (run / "jobs/nl.exit").write_text("75\n")
    assert status(run, {}).state == "stopped"
    (run / "jobs/nl.exit").write_text("1\n")
    (run / "jobs/nl-7.log").write_text("step 1\nerror: rank 1: RuntimeError: a GPU fell off the bus\nTraceback\n")
    row = status(run, {})
    assert (row.state, row.note) == ("failed", "exit code 1: error: rank 1: RuntimeError: a GPU fell off the bus")
    (run / "jobs/nl.exit").write_text("247\n")
    lines = ["error: rank 1 (process 7 on n2) ended first", f"error: rank 0 on n1 lost another rank: {'x' * 300}"]
    (run / "jobs/nl-7.log").write_text("\n".join(lines))
    assert status(run, {}).note == f"exit code 247, killed by signal 9 (out of memory?): {lines[0]}"
    (run / "jobs/nl-7.log").write_text(lines[1])
    assert f": {lines[1][:36]}" in status(run, {}).note, "from its beginning"
    finish(run, "nl", "multi")
    assert status(run, {}).state == "finished"
    slurm_job(run, "9", "multi")
    assert status(run, {"9": ("pending", "None")}).state == "pending", "it is to be extended"


def test_a_refused_submission_is_no_stopped_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["cluster=slurm", "model=tiny", "stage=nl", f"run.root={tmp_path}/runs", "run.name=mine"]
    assert main(words) == 2
    row = status(tmp_path / "runs/mine", {})
    assert (row.state, row.note) == ("refused", "sbatch refused stage nl: Invalid account")
    slurm_job(tmp_path / "runs/mine", "7", "nl")
    assert status(tmp_path / "runs/mine", {"7": ("running", "")}).state == "running"
    assert status(tmp_path / "runs/mine", {}).state == "cancelled"


def test_a_run_on_another_host_is_known_by_its_signs_of_life(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conf.run_lock.node_name", lambda: "elsewhere")
    add_job(run, "local", str(os.getpid()), ["nl"], "elsewhere", "jobs/local.log", "jobs/local.exit")
    assert status(run, {}).state == "killed"
    with run_lock(run, "its-launcher", 60.0):
        row = status(run, {})
        assert (row.state, row.note) == ("running", "")
        assert active_job(run, {}) == f"process {os.getpid()} (running)"


def test_a_run_whose_launcher_was_killed_tells_how_long_it_is_refused(run: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    add_job(run, "local", str(ended.pid), ["nl"], platform.node(), "jobs/local.log", "jobs/local.exit")
    assert status(run, {}).note.startswith("launch again to resume; ")
    with run_lock(run, "its-launcher", 60.0):
        assert re.match(r"launch again to resume, in \d+ s: its ranks may still be saving; ", status(run, {}).note)


def test_a_local_run_is_known_by_its_process(run: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    add_job(run, "local", str(process.pid), ["nl", "multi"], platform.node(), "jobs/local.log", "jobs/local.exit")
    assert status(run, {}).state == "running"
    assert cancel([str(run)]) == 0
    process.wait(10)
    assert status(run, {}).state == "killed"
    entry = json.loads((run / "jobs.json").read_text())
    entry[0] |= {"id": str(os.getpid()), "started": time.time() - 10**6}  # the process id has come again
    (run / "jobs.json").write_text(json.dumps(entry))
    assert status(run, {}).state != "running"


def test_half_written_files_are_told_not_raised(run: Path) -> None:
    slurm_job(run, "7", "nl")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "nl", "step": 70, "lo')
    (run / "jobs.json").write_text("[{")
    assert read_jobs(run) == []
    assert status(run, {}).step == 60
    (run / "config.yaml").write_text("model: {n_layer: [")
    assert status(run, {}).state == "unreadable"


def test_a_queue_that_does_not_answer_is_not_an_empty_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a second job would be submitted beside the first; a run without jobs of Slurm needs no answer."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho 'squeue: error: Unable to contact controller' >&2\nexit 1\n")
    (tmp_path / "bin/squeue").chmod(0o755)
    monkeypatch.setattr("launch.slurm.QUEUE_SECONDS", 0)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert queue_of([run]) == {}
    slurm_job(run, "7", "nl")
    with pytest.raises(ConfigError, match=r"squeue does not say .* \(Unable to contact controller\)"):
        queue_of([run])


def test_logs_show_the_newest(run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.slurm.queue", dict)
    slurm_job(run, "7", "nl")
    with pytest.raises(ConfigError, match="has no log yet"):
        logs([str(run)])
    (run / "jobs/nl-7.log").write_text("nl 60/120  loss 3.0\n")
    assert logs(["-f", str(run)]) == 0
    assert capfd.readouterr().out == "nl 60/120  loss 3.0\n"


@pytest.mark.parametrize("command", [cancel, logs, sync])
def test_what_is_no_run_is_one_line(command: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        command([str(tmp_path / "none")])  # type: ignore[operator]
    with pytest.raises(ConfigError, match="there is no run in"):
        runs_below(tmp_path)


def test_sync_leaves_out_what_was_uploaded(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run / "wandb/offline-run-20260101_000000-abc"
    done.mkdir(parents=True)
    (done / "run-abc.wandb.synced").touch()
    assert sync([str(run)]) == 0
    assert "everything is synchronised" in capsys.readouterr().out
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(run))  # where no key is kept
    left = run / "wandb/offline-run-20260102_000000-abc"
    left.mkdir()
    (left / "run-abc.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    with pytest.raises(ConfigError, match=f"1 of 1 were not uploaded, as wandb says above; the first is {left}"):
        sync([str(run)])


def test_status_answers_at_the_command_line(run: Path) -> None:
    words = [sys.executable, "-m", "launch", "status", f"root={run.parent}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "20"})
    assert done.returncode == 0 and "mine" in done.stdout and "60/120" in done.stdout
    wrong = subprocess.run([*words[:4], "runs"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr == "error: unknown word 'runs'; status takes root=FOLDER\n"
