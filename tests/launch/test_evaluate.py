"""`python -m launch evaluate`: the evaluation's own words on several processes, here or on Slurm after its stage."""

import shlex
from pathlib import Path

import pytest

from launch import evaluate
from launch.__main__ import main
from launch.jobs import add_job, read_jobs
from launch.status import active_job, status
from tests.train.compare_runs import write_run


def test_here_it_starts_a_process_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("")
    words = [f"run={tmp_path}", "task=humaneval", "k=[1,10]"]
    assert main(["evaluate", "dry_run=true", "cluster.cpu_processes=3", *words]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[-len(words) - 1 :] == ["train.evaluate", *words]


def test_on_slurm_it_is_a_job_that_waits_for_the_stage_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    for number, stage in ((7, "nl"), (8, "multi")):
        add_job(run, "slurm", str(number), [stage], "", f"{stage}.log", f"jobs/{stage}.exit")
    monkeypatch.setattr(evaluate.slurm, "queue", lambda: {"7": ("running", ""), "8": ("pending", "Dependency")})
    words = ["evaluate", "cluster=slurm_a100", "nodes=2", "dry_run=true", "task=humaneval"]
    for source, after in (("runs/mine", "8"), ("runs/mine/stages/nl", "7")):
        assert main([*words, f"run={source}"]) == 0
        script = capsys.readouterr().out
        assert f"sbatch --parsable --dependency=afterok:{after} {run}/jobs/evaluate-humaneval.sh" in script
        assert f"set -- task=humaneval run={source} ;;" in script and "-m train.evaluate" in script
        assert "prepare" not in script and "scontrol requeue" in script and "#SBATCH --nodes=2" in script
    monkeypatch.setattr(evaluate.slurm, "queue", dict)
    assert main([*words, "run=runs/mine"]) == 0
    assert "--dependency" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=x", "task=humaneval"], "run=x is no run, stage, imported or exported folder"),
        (["run=x", "task=humanevil"], "task=humanevil is not known"),
        (["run=x", "task=humaneval", "sample=3"], "did you mean 'samples'?"),
        (["run=x", "task=humaneval", "cluster=slurmy"], "slurmy"),
        (["run=o/n", "task=humaneval", "cluster=hostfile"], "cluster=hostfile is for training"),
    ],
)
def test_bad_words_are_one_line_before_anything_starts(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_an_evaluation_is_among_the_jobs_of_its_run_and_hinders_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs", "mine", stages="mono")
    monkeypatch.setattr(evaluate.slurm, "submit", lambda scripts, array, after: dict.fromkeys(scripts, "12"))
    assert main(["evaluate", "cluster=slurm", f"run={run}", "task=humaneval"]) == 0
    queue = {"12": ("running", "None")}
    monkeypatch.setattr(evaluate.slurm, "queue", lambda: queue)
    assert "evaluate-humaneval (12) is running" in status(run, queue).note
    assert active_job(run, queue) is None and evaluate.stage_job(run, run) is None
    assert "evaluate-humaneval" not in status(run, {}).note
    (run / "jobs/evaluate-humaneval-12.log").write_text("164 problems\n")
    capsys.readouterr()
    assert main(["logs", str(run)]) == 0
    assert capsys.readouterr().out == "164 problems\n"


def test_evaluations_of_other_weights_keep_their_jobs_where_their_results_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported/mine").mkdir(parents=True)
    (tmp_path / "exported/mine/config.json").write_text("{}")
    monkeypatch.setattr(evaluate.slurm, "submit", lambda scripts, array, after: dict.fromkeys(scripts, "12"))
    assert main(["evaluate", "cluster=slurm", "run=exported/mine", "task=humaneval"]) == 0
    assert [job.id for job in read_jobs(tmp_path / "evaluations/exported-mine")] == ["12"]
    assert [path.name for path in (tmp_path / "exported/mine").iterdir()] == ["config.json"]


def test_a_k_that_no_sample_serves_is_refused_before_the_queue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "cluster=slurm_a100", "run=owner/name", "task=humaneval", "samples=2", "k=[5]"]) == 2
    assert "pass@k of 2 samples needs 1 <= k <= 2; k=[5], use k=[1]" in capsys.readouterr().err
