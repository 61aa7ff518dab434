"""Slurm: one batch job per stage, each dependent on the one before. The script is kept with the run."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from conf.cluster_schema import SlurmConfig
from conf.errors import ConfigError
from conf.exit_codes import INTERRUPTED
from conf.save_time import warning_seconds, write_gb_per_second
from conf.schema import Settings
from launch.local import CPU_ENVIRONMENT, gpu_environment, world_size

QUEUE_TRIES, QUEUE_SECONDS = 3, 1.0  # squeue may fail once, where its controller is busy

SCRIPT = """\
#!/bin/bash
# Stage {stage} of {title}, written by `python -m launch`.
{directives}
{setup}
case ${{SLURM_ARRAY_TASK_ID:-0}} in
{runs}
esac
id=$SLURM_JOB_ID  # of an array's last task it is the whole array's
[[ ${{SLURM_ARRAY_JOB_ID:-}} ]] && id=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
unset SLURM_EXPORT_ENV  # srun hands on what is exported here, also where sbatch took nothing along
[[ ${{SLURM_CPUS_PER_TASK:-}} ]] && export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # srun does not ask the job

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${{nodes%%$'\\n'*}}
export NODES=${{nodes//$'\\n'/ }}
export MASTER_ADDR=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}

run=${{exit_file%/jobs/*}} job=${{exit_file%.exit}}
tries_file=$job.tries cancel_file=$job.cancel errors_file=$job.errors nodes_file=$job.nodes
code=0
trap : TERM  # this script gets it too, and still has to write the exit code
rm -f "$exit_file" "$cancel_file" "$run"/hangs/*.alive
{prepare}if (( code == 0 )); then  # when a rank ends, the others have a minute
    {{
        srun --kill-on-bad-exit=0 --wait=60 {srun}bash -c \\
            'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' \\
            rank {python} -m {module} "$@" 2>&1 >&3 3>&- | (trap '' TERM; exec tee "$errors_file" >&2 3>&-)
        code=${{PIPESTATUS[0]}}
    }} 3>&1
fi

exclude() {{  # nodes that failed twice, once the job is pending again, where others can take their places
    local bad spare
    bad=$(sort "$nodes_file" | uniq -d | paste -sd,)
    [[ $bad ]] || return 0
    spare=$(sinfo -h -N -p "$SLURM_JOB_PARTITION" -t idle,alloc,mix,comp,resv -o %N | sort -u |
        grep -cvxF "${{bad//,/$'\n'}}")
    if (( spare >= SLURM_JOB_NUM_NODES )); then
        echo "failed twice, and excluded from here: $bad"
        scontrol update JobId="$id" ExcNodeList="$bad"
    else
        echo "failed twice, and no node is spare: $bad; to resume with fewer, launch again with" \\
            "$({python} -m train.plan.fewer $((SLURM_JOB_NUM_NODES - 1)) "$@")"
    fi
}}

# A failure is tried again from the last checkpoint, up to a limit without a new one; wrong settings (2) and what
# training says of itself (4) are not.
if (( code != 0 && code != 2 && code != 4 && code != {interrupted} )) && [[ ! -e $cancel_file ]]; then
    reached=$(ls -d "$run"/stages/*/checkpoints/step_????????* "$run"/stages/*/weights 2>/dev/null | cksum)
    tries=0 before=
    [[ -e $tries_file ]] && {{ read -r tries; read -r before; }} < "$tries_file"
    [[ $reached == "$before" ]] && tries=$((tries + 1)) || tries=1
    printf '%s\n' "$tries" "$reached" > "$tries_file"
    if (( tries <= {restarts} )); then
        echo "failed with code $code: to be requeued, and resumed from the last checkpoint (time $tries of {restarts})"
        sleep $(( {restart_seconds} * (1 << (tries - 1)) ))
        {python} -m launch.blame "$errors_file" $nodes >> "$nodes_file"
        trap '' TERM  # a requeued job's processes are ended, and some work is left
        if [[ ! -e $cancel_file ]] && scontrol requeue "$id"; then
            exclude "$@"
            exit "$code"
        fi
    fi
fi
for _ in 1 2 3 4 5; do  # squeue failing once is not a job that is being cancelled
    state=$(squeue --noheader --jobs="$id" --format=%T) && break
    sleep 2
done
if (( code == {interrupted} )) && [[ $state == RUNNING && ! -e $cancel_file ]]; then
    if (( ${{SLURM_RESTART_COUNT:-0}} < {max_requeues} )); then
        echo "stopped and saved: requeued, and resumes from there (time ${{SLURM_RESTART_COUNT:-0}} of {max_requeues})"
        scontrol requeue "$id" && exit "$code"
    fi
    echo "error: stopped for the last of {max_requeues} times (cluster.slurm.max_requeues); launch again to resume"
fi
echo "$code" > "$exit_file"
[[ -e $cancel_file ]] && scancel "$id"  # it has saved itself
exit "$code"
"""
PREPARE_JOB = "prepare"  # its name, among those of the stages
PREPARE = 'srun --nodes=1 --ntasks=1 {srun}{python} -m train.data prepare "$@" || code=$?\n'


class Task(NamedTuple):
    """One run of a script: its settings, its folder, and the words of its module."""

    settings: Settings
    folder: Path
    words: list[str]


def script(tasks: list[Task], stage: str, title: str, log: Path, module: str = "train") -> str:
    """The batch script of one stage.

    tasks: one, or those of a job array, which are alike in their nodes: the cluster's settings are the first's.
    title: the run or the sweep, for its name and heading. log: file for the output, with Slurm's %-patterns.
    module: what runs; training has its data prepared first.
    Errors: `ConfigError` for a path that Slurm does not read.
    """
    if re.search(r"\s", str(log.resolve())):
        raise ConfigError(f"{str(log.resolve())!r} has a space, which Slurm does not read; choose another folder")
    cluster, slurm = tasks[0].settings.cluster, tasks[0].settings.cluster.slurm
    python = shlex.quote(slurm.python or sys.executable)
    if slurm.container:
        python = f"{slurm.container} {python}"
    srun = "".join(f"{word} " for word in slurm.srun)
    warning = max(warning_seconds(task.settings, write_gb_per_second(task.folder)) for task in tasks)
    directives = _directives(tasks[0].settings, len(tasks), stage, title, log, warning)
    return SCRIPT.format(
        stage=stage,
        title=title,
        directives="\n".join(f"#SBATCH {line}" for line in directives),
        setup="\n".join(_setup(slurm)),
        runs="\n".join(_case(index, task, stage) for index, task in enumerate(tasks)),
        python=python,
        module=module,
        prepare=PREPARE.format(python=python, srun=srun) if module == "train" else "",
        srun=srun,
        interrupted=INTERRUPTED,
        max_requeues=slurm.max_requeues,
        restarts=cluster.restarts,
        restart_seconds=cluster.restart_seconds,
    )


def prepare_script(tasks: list[Task], title: str, log: Path) -> str:
    """The batch script of a job without GPUs that prepares the data, before the first stage's job begins."""
    cluster = tasks[0].settings.cluster
    own = replace(
        cluster.slurm,
        gpus_per_node=0,
        cpus_per_task=cluster.slurm.prepare_cpus,
        partition=cluster.slurm.prepare_partition or cluster.slurm.partition,
        constraint=None,  # it names GPUs
    )
    alone = replace(cluster, nodes=1, processes_per_node=1, slurm=own)
    prepared = [Task(replace(task.settings, cluster=alone), task.folder, ["prepare", *task.words]) for task in tasks]
    return script(prepared, PREPARE_JOB, title, log, "train.data")


def exit_name(stage: str) -> str:
    """Path, relative to the run's folder, of the file with a stage's exit code."""
    return f"jobs/{stage}.exit"


def _directives(settings: Settings, count: int, stage: str, title: str, log: Path, warning: int) -> Iterator[str]:
    cluster, slurm = settings.cluster, settings.cluster.slurm
    yield f"--job-name={Path(title).name}/{stage}"
    yield f"--nodes={cluster.nodes}"
    yield f"--ntasks-per-node={world_size(cluster, settings.layout) // cluster.nodes}"
    if slurm.gpus_per_node:
        yield f"--gpus-per-node={slurm.gpus_per_node}"
    for name in ("cpus_per_task", "partition", "account", "qos", "constraint"):
        if getattr(slurm, name) is not None:
            yield f"--{name.replace('_', '-')}={getattr(slurm, name)}"
    yield f"--time={slurm.time}"
    yield f"--signal=USR1@{warning}"
    yield "--requeue"
    yield "--kill-on-invalid-dep=yes"
    yield "--open-mode=append"
    yield f"--output={log.resolve()}"
    if count > 1:
        yield f"--array=0-{count - 1}"
    yield from slurm.sbatch


def _case(index: int, task: Task, stage: str) -> str:
    """What one task of the array sets."""
    slurm = task.settings.cluster.slurm
    variables = gpu_environment(task.settings.layout) if slurm.gpus_per_node else CPU_ENVIRONMENT
    lines = [f"export {name}=${{{name}:-{value}}}" for name, value in variables.items()]
    exit_file = f"exit_file={shlex.quote(str(task.folder / exit_name(stage)))}"
    return f"{index}) " + "\n   ".join([exit_file, *lines, f"set -- {shlex.join(task.words)} ;;"])


def _setup(slurm: SlurmConfig) -> Iterator[str]:
    yield f"cd {shlex.quote(str(Path.cwd()))}"
    for module in slurm.modules:
        yield f"module load {shlex.quote(module)}"
    for name, value in slurm.environment.items():
        yield f"export {name}={shlex.quote(value)}"
    yield from slurm.setup


def sbatch_command(path: Path, after: str | None, array: bool) -> list[str]:
    """The command that submits the script at `path`, to begin when job `after` has succeeded (task by task)."""
    dependency = [f"--dependency={'aftercorr' if array else 'afterok'}:{after}"] if after else []
    return ["sbatch", "--parsable", *dependency, str(path)]


def submit(paths: dict[str, Path], array: bool, after: str | None = None) -> dict[str, str]:
    """Submit each stage's script, in order, each after the one before, the first after job `after`: stage -> job id.

    All or none.

    Errors: `ConfigError` with what sbatch said, where it refuses one.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch on this machine; submit from the cluster's login node or use cluster=local"
        )
    ids: dict[str, str] = {}
    for stage, path in paths.items():
        command = sbatch_command(path, list(ids.values())[-1] if ids else after, array)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            if ids:
                subprocess.run(["scancel", *ids.values()], check=False)
            raise ConfigError(f"sbatch refused stage {stage}: {_reason(done.stderr)}")
        ids[stage] = done.stdout.strip().split(";")[0]
    return ids


def _reason(stderr: str) -> str:
    """sbatch's message in one line; for an unknown partition also the partitions that exist."""
    lines = [re.sub(r"^(sbatch|squeue): (error: )?", "", line) for line in stderr.splitlines() if line.strip()]
    message = "; ".join(dict.fromkeys(lines)) or "it gave no reason"
    if "invalid partition" in message.lower():
        listed = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=False).stdout.split()
        message += f"; cluster.slurm.partition may be {', '.join(sorted(set(listed)))}"
    return message


def queue() -> dict[str, tuple[str, str]]:
    """Job id -> (state, reason) of the user's jobs, an array's tasks one by one; empty without Slurm.

    Errors: `ConfigError` where squeue fails: whether a run is under way is then not known.
    """
    if shutil.which("squeue") is None:
        return {}
    words = ["squeue", "--me", "-h", "-r", "-o", "%i|%T|%r"]
    for _ in range(QUEUE_TRIES):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        time.sleep(QUEUE_SECONDS)
    else:
        raise ConfigError(f"squeue does not say which jobs are under way ({_reason(done.stderr)}); try again later")
    rows = (line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2)
    return {id: (state.lower(), reason) for id, state, reason in rows}
