"""`python -m launch evaluate`: `train.evaluate` on several processes, here or as a Slurm job after the stage's own."""

import os
import platform
import shlex
import sys
from pathlib import Path

from conf.benchmarks import check_settings
from conf.choices import ClusterKind
from conf.command_line import SEARCH_PATH, Command
from conf.commands import OF_THE_CLUSTER, Evaluate, read_command
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.run_folder import evaluations_of, is_run_folder
from conf.schema import Settings
from conf.sources import holds_weights
from launch import slurm
from launch.jobs import add_job, read_jobs
from launch.local import HERE, environment, train_command, world_size
from launch.processes import run
from launch.status import job_state, queue_of

COMMAND = Command(
    program="python -m launch evaluate",
    usage="[cluster=...] [nodes=...] run=... task=... [KEY=VALUE ...]",
    summary="Starts `python -m train.evaluate` with the same settings on every GPU of this machine, or as a Slurm job, "
    "which waits for the stage's own job where that has not ended. An interrupted evaluation is requeued and resumes.",
    examples=(
        "python -m launch evaluate run=runs/mine task=humaneval",
        "python -m launch evaluate cluster=slurm_a100 nodes=4 run=runs/mine/stages/mono task=humaneval",
    ),
    settings="evaluate",
    resumable=True,
)


def launch(argv: list[str]) -> int:
    """Check the settings, then start or submit the evaluation; return the exit code. Errors: `ConfigError`."""
    words = COMMAND.split_flags(argv)[1]
    where = [word for word in words if word.partition("=")[0].lstrip("+").split(".")[0] in OF_THE_CLUSTER]
    what = [word for word in words if word not in where]
    where += [word for word in what if word.startswith(SEARCH_PATH)]  # a folder of one's own serves both
    command = read_command(Evaluate, what)
    check_settings(command)
    settings = compose_settings(where)
    if not (holds_weights(command.run) or is_run_folder(home_of(command.run))):  # a run's stage may be yet to come
        raise ConfigError(
            f"run={command.run} is no run, stage, imported or exported folder, and names on the hub are owner/name"
        )
    if settings.cluster.kind is ClusterKind.slurm:
        return submit(settings, command, what)
    if settings.cluster.kind is ClusterKind.hostfile:
        raise ConfigError("cluster=hostfile is for training; evaluate with cluster=local or cluster=slurm")
    processes = world_size(settings.cluster, settings.layout)
    start = train_command(what, {HERE: processes}, module="train.evaluate")
    if settings.dry_run:
        print(shlex.join(start))
        return 0
    variables = {**os.environ, **environment(processes, settings.layout)}
    folder, name = home_of(command.run), f"evaluate-{command.task}"
    log, exit_file = f"jobs/{name}.log", f"jobs/{name}.exit"
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    add_job(folder, "local", str(os.getpid()), [], platform.node(), log, exit_file)
    code = run(start, variables, settings.cluster.grace_seconds, folder / log)
    (folder / exit_file).write_text(f"{code}\n")
    return code


def home_of(source: str) -> Path:
    """The folder that keeps the evaluation's jobs: of the run, or where the results of other weights go."""
    runs = (path for path in (Path(source), *Path(source).parents) if is_run_folder(path))
    return next(runs, evaluations_of(source)).resolve()


def submit(settings: Settings, command: Evaluate, words: list[str]) -> int:
    """Submit one job; its script and log are in `jobs/` of the run, or of the folder that the weights are in."""
    source, folder = Path(command.run), home_of(command.run)
    name = f"evaluate-{command.task}"
    path, log = folder / f"jobs/{name}.sh", folder / f"jobs/{name}-%j.log"
    text = slurm.script([slurm.Task(settings, folder, words)], name, str(source), log, module="train.evaluate")
    after = stage_job(folder, source) if is_run_folder(folder) else None
    if settings.dry_run:
        print(f"# {path}\n{text}\n# {shlex.join(slurm.sbatch_command(path, after, array=False))}")
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    id = slurm.submit({name: path}, array=False, after=after)[name]
    add_job(folder, "slurm", id, [], "", str(log).replace("%j", id), slurm.exit_name(name))
    print(f"{name}: job {id}" + (f", after job {after}" if after else "") + f"; log: {str(log).replace('%j', id)}")
    sys.stdout.flush()
    return 0


def stage_job(run: Path, source: Path) -> str | None:
    """The queued or running Slurm job that makes the weights of `source`, a run or one of its stages; else None."""
    queue = queue_of([run])
    alive = [job for job in read_jobs(run) if job.kind == "slurm" and not job.evaluates and job_state(run, job, queue)]
    wanted = source.name if source.resolve() != run.resolve() else None
    made = [job.id for job in alive if wanted is None or wanted in job.stages]
    return made[-1] if made else None
