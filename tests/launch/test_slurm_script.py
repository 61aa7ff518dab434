"""The script that would be submitted: readable, complete, and a shell's; no Slurm needed."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FULL = [
    "cluster=slurm_a100",
    "nodes=8",
    "model=6b",
    "stage=nl,multi,mono",
    "layout=a100_64",
    "cluster.slurm.partition=gpu",
    "cluster.slurm.account=physics",
    "cluster.slurm.qos=high",
    "cluster.slurm.constraint=a100_80",
    "cluster.slurm.time=12:30:00",
    "cluster.slurm.cpus_per_task=12",
    "cluster.slurm.modules=[cuda/12.8,nccl]",
    "+cluster.slurm.environment.NCCL_DEBUG=WARN",
    "+cluster.slurm.environment.GREETING='it is me'",
    "cluster.slurm.setup=['ulimit -l unlimited']",
    "cluster.slurm.container='apptainer exec --nv codegen.sif'",
    "cluster.slurm.python=python3",
    "cluster.slurm.sbatch=['--exclusive','--mail-type=FAIL']",
    "cluster.slurm.srun=['--cpu-bind=cores']",
]


def dry_run(folder: Path, *words: str, leaves: Sequence[Path] = ()) -> str:
    command = [sys.executable, "-m", "launch", *words, "dry_run=true"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert set(folder.iterdir()) == set(leaves), "a dry run leaves nothing"
    return done.stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dry_run(tmp_path_factory.mktemp("dry"), *FULL)


def test_three_stages_are_three_chained_jobs(shown: str) -> None:
    assert shown.startswith("starting runs/codegen-6b: 64 processes\n")
    (script,) = shown.split("#!/bin/bash\n")[1:]
    assert "run.until=nl ;;" in script and "#SBATCH --job-name=codegen-6b/nl\n" in script
    for stage in ("multi", "mono"):
        assert f"# runs/codegen-6b/jobs/{stage}.sh: as above, for stage {stage}\n" in shown
    assert "# sbatch --parsable runs/codegen-6b/jobs/nl.sh\n" in shown
    assert "# sbatch --parsable --dependency=afterok:JOB_OF_NL runs/codegen-6b/jobs/multi.sh\n" in shown
    assert "# sbatch --parsable --dependency=afterok:JOB_OF_MULTI runs/codegen-6b/jobs/mono.sh\n" in shown


@pytest.mark.parametrize(
    "line",
    [
        "#SBATCH --nodes=8",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=12",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=physics",
        "#SBATCH --qos=high",
        "#SBATCH --constraint=a100_80",
        "#SBATCH --time=12:30:00",
        "#SBATCH --signal=USR1@230",
        "#SBATCH --requeue",
        "#SBATCH --kill-on-invalid-dep=yes",
        "#SBATCH --exclusive",
        "#SBATCH --mail-type=FAIL",
        "module load cuda/12.8",
        "module load nccl",
        "export NCCL_DEBUG=WARN",
        "export GREETING='it is me'",
        "ulimit -l unlimited",
    ],
)
def test_every_setting_is_a_line(shown: str, line: str) -> None:
    assert shown.splitlines().count(line) == 1


def test_ranks_are_started_in_the_container(shown: str) -> None:
    python = "apptainer exec --nv codegen.sif python3"
    assert f"srun --nodes=1 --ntasks=1 --cpu-bind=cores {python} -m train.data prepare" in shown
    assert "srun --kill-on-bad-exit=0 --wait=60 --cpu-bind=cores bash -c" in shown
    assert f'rank {python} -m train "$@"' in shown


def test_directives_come_before_the_first_command(shown: str) -> None:
    for script in shown.split("#!/bin/bash\n")[1:]:
        lines = script.splitlines()
        first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
        assert not [line for line in lines[first:] if line.startswith("#SBATCH")], "Slurm would ignore these"


@pytest.mark.parametrize(
    "word", ["data.corpora.mono.paths=[code/**/*.py,'o d/$HOME']", "data.corpora.mono.name='it is'"]
)
def test_a_shell_reads_the_words_as_they_were_given(word: str, tmp_path: Path) -> None:
    for path in (tmp_path / "code/a.py", tmp_path / "o d/$HOME"):
        path.parent.mkdir()
        path.touch()
    before = list(tmp_path.iterdir())
    words = ["cluster=slurm", "data=files" if "paths" in word else "data=local", "stage=mono", word]
    script = dry_run(tmp_path, *words, leaves=before).split("#!/bin/bash\n")[1]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    case = script[script.index("case ") : script.index("esac") + 4]
    read = subprocess.run(["bash", "-c", f'{case}\nprintf "%s\\n" "$@"'], capture_output=True, text=True, check=True)
    assert read.stdout.splitlines() == [*words, "run.until=mono"]


def run_script(
    folder: Path, tries: str = "", words: Sequence[str] = (), variables: Mapping[str, str] | None = None, **tools: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The script itself, with programs of Slurm that do what `tools` says; training fails with code 1 where it does
    not say otherwise. -> (what it printed and its code, the run's folder)"""
    path = folder / "script"
    if not path.exists():
        text = dry_run(folder, "cluster=slurm", "stage=nl", f"run.root={folder}/runs", *words)
        text = text.split("#!/bin/bash\n")[1]
        path.write_text(text.partition("\n# sbatch ")[0].replace("sleep ", "pause "))
    run, programs = folder / "runs/codegen-tiny", folder / "bin"
    (run / "stages/nl/checkpoints/step_00000007").mkdir(parents=True, exist_ok=True)
    (run / "jobs").mkdir(exist_ok=True)
    programs.mkdir(exist_ok=True)
    does = {"scontrol": 'echo "scontrol $*"', "srun": "exit 1", "squeue": "echo RUNNING", "scancel": "true"}
    for name, what in {**does, "sinfo": "echo n1", "pause": "true", **tools}.items():
        (programs / name).write_text(f"#!/bin/sh\n{what}\n")
        (programs / name).chmod(0o755)
    found = f"ls -d {run}/stages/*/checkpoints/step_????????* {run}/stages/*/weights 2>/dev/null | cksum"
    reached = subprocess.run(["bash", "-c", found], capture_output=True, text=True, check=False).stdout.strip()
    if tries:
        (run / "jobs/nl.tries").write_text(tries.format(reached=reached) + "\n")
    variables = {**(variables or {}), "PYTHONPATH": str(ROOT)}
    variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **variables}
    variables |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
    variables["SLURM_JOB_PARTITION"] = "debug"
    done = subprocess.run(["bash", path], env=variables, capture_output=True, text=True, check=False)
    return done, run


@pytest.mark.parametrize(
    ("tries", "requeued"), [("", True), ("2\n{reached}", True), ("3\n{reached}", False), ("3\nother", True)]
)
def test_a_failure_is_requeued_while_it_comes_further(tries: str, requeued: bool, tmp_path: Path) -> None:
    done, run = run_script(tmp_path, tries)
    assert done.returncode == 1, done.stderr
    assert ("scontrol requeue 7" in done.stdout) == requeued == (not (run / "jobs/nl.exit").exists())


def test_a_task_of_an_array_is_named_as_one_also_where_its_id_is_the_arrays(tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    for code, cancelled in ((1, "true"), (75, "true"), (1, f"touch {tmp_path}/runs/codegen-tiny/jobs/nl.cancel")):
        tools = {"srun": f"exit {code}", "pause": cancelled, "squeue": 'echo "$*" >&2; echo RUNNING'}
        done, _ = run_script(tmp_path, variables=array, scancel='echo "scancel $*"', **tools)
        assert ("scancel 7_0" if "touch" in cancelled else "scontrol requeue 7_0") in done.stdout
        assert "--jobs=7_0 " in done.stderr or code == 1


def test_steps_have_the_jobs_cores_and_variables_whatever_sbatch_took_along(tmp_path: Path) -> None:
    shows = 'echo "cores $SRUN_CPUS_PER_TASK, exports ${SLURM_EXPORT_ENV-all}" >&2; exit 1'
    given = {"SLURM_CPUS_PER_TASK": "12", "SLURM_EXPORT_ENV": "NONE"}
    done, _ = run_script(tmp_path, variables=given, srun=shows)
    assert "cores 12, exports all\n" in done.stderr


def test_a_python_in_a_folder_with_a_space_is_started(tmp_path: Path) -> None:
    python = tmp_path / "my bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "rank $RANK: $*"\n')
    python.chmod(0o755)
    starts = 'while [ "$1" != bash ] && [ "${1%python}" = "$1" ]; do shift; done; SLURM_PROCID=3 exec "$@"'
    words = [f"cluster.slurm.python='{python}'"]
    text = dry_run(tmp_path, "cluster=slurm", "stage=nl", f"run.root={tmp_path}/runs", *words, leaves=[python.parent])
    (tmp_path / "script").write_text(text.split("#!/bin/bash\n")[1].partition("\n# sbatch ")[0])
    done, _ = run_script(tmp_path, srun=starts)
    assert done.returncode == 0, done.stderr
    assert "rank : -m train.data prepare cluster=slurm" in done.stdout
    assert "rank 3: -m train cluster=slurm stage=nl" in done.stdout


def test_a_node_that_failed_twice_is_excluded_where_another_can_take_its_place(tmp_path: Path) -> None:
    killed = {"srun": "case $* in *train.data*) exit 0;; esac; echo 'srun: error: n2: task 1: Killed' >&2; exit 137"}
    killed["scontrol"] = '[ "$2" = hostnames ] && printf "n1\\nn2\\n" || echo "scontrol $*"'
    spare = killed | {"sinfo": 'printf "n1\\nn2\\nn3\\n"'}
    first, _ = run_script(tmp_path, **spare)
    assert "scontrol requeue 7" in first.stdout and "ExcNodeList" not in first.stdout
    assert "srun: error: n2" in first.stderr, "what srun says stays in the log"
    second, _ = run_script(tmp_path, **spare)
    assert "failed twice, and excluded from here: n2\nscontrol update JobId=7 ExcNodeList=n2" in second.stdout
    third, _ = run_script(tmp_path, "1\nother", **killed | {"sinfo": "echo n2"})
    assert "failed twice, and no node is spare: n2; to resume with fewer, launch again with" in third.stdout
    assert "ExcNodeList" not in third.stdout


def test_squeue_failing_once_is_no_cancelled_job(tmp_path: Path) -> None:
    flaky = f"[ -e {tmp_path}/asked ] && echo RUNNING || {{ touch {tmp_path}/asked; exit 1; }}"
    done, run = run_script(tmp_path, srun="exit 75", squeue=flaky)
    assert done.returncode == 75 and "scontrol requeue 7" in done.stdout and not (run / "jobs/nl.exit").exists()


def test_a_cancel_while_it_waits_to_try_again_ends_it(tmp_path: Path) -> None:
    cancelled = f"touch {tmp_path}/runs/codegen-tiny/jobs/nl.cancel"
    done, run = run_script(tmp_path, pause=cancelled, scancel="echo cancelled")
    assert "scontrol requeue" not in done.stdout and "cancelled" in done.stdout
    assert (run / "jobs/nl.exit").read_text() == "1\n"


def test_a_sweep_is_one_script_with_a_case_for_each_run(tmp_path: Path) -> None:
    shown = dry_run(tmp_path, "cluster=slurm", "stage=nl", "optimizer.weight_decay=0.1,0.01", "run.seed=1,2", "-m")
    assert shown.count("#!/bin/bash") == 1 and "#SBATCH --array=0-3\n" in shown
    assert shown.count("set -- cluster=slurm") == 0 and shown.count("   set -- stage=nl cluster=slurm") == 4


def test_runs_of_a_sweep_have_their_own_variables_and_the_longest_warning(tmp_path: Path) -> None:
    words = ["cluster=slurm_a100", "nodes=8", "stage=nl", "model=350m,16b", "layout=a100_64", "-m"]
    both = dry_run(tmp_path, *words)
    alone = dry_run(tmp_path, *words[:3], "model=16b", "layout=a100_64")
    signal = next(line for line in alone.splitlines() if "--signal=" in line)
    assert signal in both and both.count("export PYTORCH_CUDA_ALLOC_CONF") == 2


@pytest.mark.parametrize("words", [["cluster.nodes=1,2"], ["layout.data_parallel_size=1,2"]])
def test_a_sweep_over_nodes_is_refused(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch", "-m", "cluster=slurm", "stage=nl", *words, "dry_run=true"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 2 and b"needs the same nodes in every run" in done.stderr


def test_a_path_with_a_space_is_refused(tmp_path: Path) -> None:
    for words in (["run.root='/a b'"], ["run.group='a b'"]):
        command = [sys.executable, "-m", "launch", "cluster=slurm", "stage=nl", *words, "dry_run=true"]
        done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
        assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_slurm_launch_needs_no_gpu_on_the_login_node(tmp_path: Path) -> None:
    assert "export DS_ACCELERATOR" not in dry_run(tmp_path, *FULL)
    assert "export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}" in dry_run(tmp_path, "cluster=slurm", "stage=nl")


def test_processes_with_gpus_get_their_allocator_and_queue_unless_the_cluster_sets_them(tmp_path: Path) -> None:
    shown = dry_run(
        tmp_path, *FULL, "layout.tensor_parallel_size=4", "layout.data_parallel_size=16", "layout.zero_stage=1"
    )
    assert "export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}\n" in shown
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}\n" in shown
    assert "DS_ACCELERATOR" not in shown


def test_data_is_prepared_by_a_job_without_gpus_where_asked_for(tmp_path: Path) -> None:
    words = ["cluster=slurm_a100", "model=350m", "stage=nl,mono", "cluster.slurm.partition=gpu"]
    words.append("cluster.slurm.prepare_cpus=64")
    prepare, nl = dry_run(tmp_path, *words, "cluster.slurm.prepare_partition=cpu").split("#!/bin/bash\n")[1:]
    lines = prepare.splitlines()
    for line in ("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=64", "--partition=cpu", "--requeue"):
        assert f"#SBATCH {line}" in lines
    assert "--gpus" not in prepare and "-m train.data prepare" not in prepare
    assert "-m train.data " in prepare and "set -- prepare cluster=slurm_a100" in prepare
    assert (
        "--dependency=afterok:JOB_OF_PREPARE" in nl and "--dependency=afterok:JOB_OF_NL" in nl.partition("mono.sh")[2]
    )
    assert "--partition=gpu" in nl and "--gpus-per-node" in nl
