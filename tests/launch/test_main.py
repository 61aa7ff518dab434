"""The launcher as its user meets it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pytest import CaptureFixture

from conf.compose import compose_settings
from conf.run_lock import run_lock
from launch.__main__ import main
from launch.local import world_size
from model.tokenizer.sentencepiece import SentencePieceTokenizer

ROOT = Path(__file__).parents[2]


def launch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch", *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.n_embdd=3"], "unknown setting 'model.n_embdd'"),
        (["layout.micro_batch_size=3"], "is not a multiple of micro_batch_size=3"),
        (["cluster.processes_per_node=3"], "micro_batch_size=4 x 3 replicas; use 12"),
        (["cluster.nodes=0"], "cluster.nodes=0"),
        (["cluster.processes_per_node=-1"], "cluster.processes_per_node=-1"),
        (["model=null"], "model=null"),
        (["layout=3d_2x2x2", "cluster.processes_per_node=4"], "layout=3d_2x2x2 is for 8 processes, and there are 4"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = launch(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_dry_run_prints_the_commands_and_starts_nothing(tmp_path: Path) -> None:
    done = launch(tmp_path, "experiment=quickstart", "dry_run=true", "cluster.processes_per_node=4")
    assert done.returncode == 0
    first, *schedules, prepare, train = done.stdout.splitlines()
    assert [line.partition(";")[0] for line in schedules] == [
        f"stage {name}: 120 steps, 491,520 tokens" for name in ("nl", "multi", "mono")
    ]
    assert first == "starting runs/quickstart-tiny: 4 processes"
    assert prepare.endswith("-m train.data prepare experiment=quickstart cluster.processes_per_node=4")
    assert "deepspeed.launcher.launch" in train and "dry_run" not in train
    assert not list(tmp_path.iterdir())


def test_a_run_that_may_not_resume_hands_on_that_it_is_new(tmp_path: Path) -> None:
    """Its ranks, a retry and the next stage's job find it begun."""
    done = launch(tmp_path, "model=tiny", "run.resume=never", "dry_run=true")
    assert done.returncode == 0
    assert all(line.endswith("run.resume=never run.resume=auto") for line in done.stdout.splitlines()[-2:])


def test_without_arguments_it_shows_how_it_is_called_and_trains_nothing(tmp_path: Path) -> None:
    done = launch(tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m launch ") and done.stderr == ""
    assert "python -m launch experiment=quickstart" in done.stdout and len(done.stdout.splitlines()) < 20
    assert not list(tmp_path.iterdir())


def test_a_size_in_a_folder_of_ones_own_is_launched_and_its_processes_find_it(tmp_path: Path) -> None:
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/1b.yaml").write_text(
        "defaults: [base]\nname: 1b\nn_layer: 24\nn_embd: 2048\nn_head: 16\nrotary_dim: 32\n"
    )
    done = launch(tmp_path, "--config-dir", "mine", "model=1b", "layout=a100_8", "dry_run=true")
    assert done.returncode == 0
    assert "note: model=1b has no recipe; that of 2b, the nearest size, is used" in done.stderr
    assert "note: layout=a100_8 has no values for model=1b; those of 2b are used" in done.stderr
    prepare = next(line for line in done.stdout.splitlines() if "-m train.data prepare" in line)
    assert f"hydra.searchpath=[file://{tmp_path}/mine]" in prepare


EXPERIMENTS = {"codegen_350m": 8, "codegen_2b": 64, "codegen_6b": 64, "codegen_16b": 512}  # GPUs of their layouts
EXPERIMENTS |= {"finetune_python": 2, "finetune_python_2b": 8, "finetune_python_6b": 8, "finetune_python_16b": 64}
EXPERIMENTS |= {"diff_codegen": 8, "finetune_python_lora": 2, "moss_sft": 2}
EXPERIMENTS |= dict.fromkeys(("smoke", "quickstart"), 2)


@pytest.mark.parametrize(("experiment", "processes"), EXPERIMENTS.items())
def test_every_experiment_launches_with_nothing_but_its_data(
    experiment: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.local.visible_gpus", list)
    data = [f"data.corpora.mono.paths=[{ROOT}/launch/*.py]"] if experiment.startswith("finetune") else []
    data = [f"data.corpora.mono.paths=[{ROOT}]"] if experiment == "diff_codegen" else data
    data = [f"data.corpora.sft.paths=[{ROOT}/launch/*.py]"] if experiment == "moss_sft" else data
    assert main([f"experiment={experiment}", *data, "dry_run=true"]) == 0
    first, *_, prepare, train = capsys.readouterr().out.splitlines()
    assert first.startswith("starting runs/" + experiment.partition("_python_")[0])
    assert first.endswith(f": {processes} processes")
    assert prepare.endswith(f"-m train.data prepare {shlex.join([f'experiment={experiment}', *data])}")
    assert train.endswith(f"train {shlex.join([f'experiment={experiment}', *data])}")
    assert not list(tmp_path.iterdir())


def test_every_experiment_is_listed_above() -> None:
    assert EXPERIMENTS.keys() == {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}


def test_a_missing_corpus_ends_before_any_process_starts(tmp_path: Path) -> None:
    done = launch(tmp_path, "data=files", "stage=nl", f"data.corpora.nl.paths=[{tmp_path}/none.jsonl]")
    assert done.returncode == 2
    assert "none.jsonl does not exist" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluation.tasks={foo: {every: 1, samples: 2}}"], "evaluation.tasks.foo is not known"),
        (["kernels=apex"], "kernels.norm=apex needs a GPU, not a cpu"),
        (["stages.nl.init_from=parent", "finetune=lora"], "finetune=lora trains no rows of new tokens"),
        (
            ["stages.nl.init_from=parent", "data.tokenizer.path=other"],
            "stages.nl.init_from=parent knows another tokenizer than this run's; take its own with "
            "data.tokenizer.path=parent and data.tokenizer.kind=sentencepiece",
        ),
    ],
)
def test_what_training_would_refuse_is_refused_before_data_is_prepared(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, texts in (("parent", "some words to learn from\n"), ("other", "another text, and its letters\n")):
        SentencePieceTokenizer.train([texts * 50], 300).save(tmp_path / name)
    (tmp_path / "parent/config.json").write_text('{"vocab_size": 512}')
    done = launch(tmp_path, "experiment=quickstart", "stage=nl", *words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert "data: " not in done.stdout and not (tmp_path / "runs/quickstart-tiny").exists()
    assert not [path.name for path in tmp_path.glob("data_cache/*") if path.name != "tokenizers"]


def test_a_run_that_is_another_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs/codegen-tiny").mkdir(parents=True)
    (tmp_path / "runs/codegen-tiny/notes").write_text("mine")
    done = launch(tmp_path, "model=tiny")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert "runs/codegen-tiny is not empty and holds no run" in done.stderr
    assert [path.name for path in (tmp_path / "runs/codegen-tiny").iterdir()] == ["notes"]


def test_a_new_run_that_is_to_be_extended_is_said_to_be_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["model=tiny", "run.name=longer", "run.extend=true", "dry_run=true"]) == 0
    said = capsys.readouterr().err
    assert said == "warning: run.extend=true has nothing to extend: runs/longer is new\n"


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*words: str) -> int:
        settings = compose_settings(list(words))
        return world_size(settings.cluster, settings.layout)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count() == 2
    assert count("layout=3d_2x2x2") == 8
    for visible in ("", "0,1,2,3"):  # of the login node
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count("cluster=slurm", "nodes=2", "cluster.processes_per_node=3") == 6
        assert count("cluster=slurm", "nodes=2") == 2
        assert count("cluster=slurm", "nodes=2", "cluster.slurm.gpus_per_node=8") == 16
    assert count() == 4


def start(folder: Path, rank: str) -> subprocess.Popen[str]:
    """`run()` with a launcher of one rank that runs the code `rank`; back when the rank has made the file `up`."""
    launcher = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {rank!r}]).returncode)"
    call = f"run([sys.executable, '-c', {launcher!r}], dict(os.environ, RANK='0'), 10.0)"
    code = f"import os, sys; from launch.processes import run; sys.exit({call})"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "up").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_ranks_as_sigterm_and_the_code_is_75(number: signal.Signals, tmp_path: Path) -> None:
    rank = (
        "import signal, sys, time\n"
        "def stop(number, _):\n    open(f'stopped by {number}', 'w').close()\n    sys.exit(75)\n"
        "signal.signal(15, stop)\nopen('up', 'w').close()\ntime.sleep(300)"
    )
    process = start(tmp_path, rank)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert (tmp_path / "stopped by 15").exists()
    assert "stopping: what was trained is saved first" in errors and "error" not in errors


def test_a_rank_that_fails_gives_its_code_and_is_named(tmp_path: Path) -> None:
    process = start(tmp_path, "import time; open('up', 'w').close(); time.sleep(10); raise SystemExit(9)")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 9
    assert "error: rank 0 (process " in errors


def test_a_second_signal_kills_what_does_not_stop(tmp_path: Path) -> None:
    """As a rank inside a long collective, which sees no SIGTERM."""
    process = start(
        tmp_path,
        "import signal, time; signal.signal(15, signal.SIG_IGN); open('up', 'w').close(); time.sleep(300)",
    )
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None and any("once more to kill it" in line for line in process.stderr)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert "saved;" not in process.stderr.read()
    assert process.wait(120) == 128 + signal.SIGTERM, "75 would say that it had saved"


def test_a_rank_that_dies_while_stopping_has_not_saved(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(9)); open('up', 'w').close(); time.sleep(300)",
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "saved;" not in errors


def test_no_rank_outlives_a_killed_launcher(tmp_path: Path) -> None:
    """The launcher cannot see a SIGKILL coming; the kernel tells its children."""
    rank = (
        "import os, signal, time\nfrom conf.run_lock import end_with_parent\nend_with_parent()\n"
        "open('pid', 'w').write(str(os.getpid()))\nopen('up', 'w').close()\ntime.sleep(300)"
    )
    process = start(tmp_path, rank)
    process.kill()
    process.communicate(timeout=120)
    number = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 120
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_launch_in_a_folder_is_refused_before_it_prepares_anything(tmp_path: Path) -> None:
    with run_lock(tmp_path / "runs/codegen-tiny", "another", 60.0):
        done = launch(tmp_path, "model=tiny")
    assert done.returncode == 2 and "is being trained by process" in done.stderr and "data:" not in done.stdout
