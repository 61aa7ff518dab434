"""`python -m launch`: compose and check the settings, prepare the data, start the processes.

`python -m launch status|cancel|logs|sync` acts on runs that were started; `evaluate` starts the evaluation of one.
"""

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from conf.check import check
from conf.choices import ClusterKind
from conf.command_line import Command, run_command
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.exit_codes import BAD_INPUT, BAD_NODE, INTERRUPTED, UNHEALTHY
from conf.help import short_help
from conf.inputs import check_inputs
from conf.resume import changes, check_run_folder, record_extension, unfinished_stages
from conf.run_folder import newest_step, run_folder, save_settings
from conf.run_lock import OWNER, owner, run_lock, stop_file
from conf.schedule import schedule_lines
from conf.schema import Settings
from launch import control, evaluate, slurm, status
from launch.hostfile import main_address, read_hostfile, remote_command, secrets_file
from launch.jobs import add_job
from launch.local import environment, train_command, world_size
from launch.processes import STOPPING, run
from launch.status import active_job, queue_of
from launch.sweep import sweep_points

COMMAND = Command(
    program="python -m launch",
    usage="[-m] [GROUP=CHOICE ...] [KEY=VALUE ...]",
    summary="Starts a run: checks its settings, prepares its data and starts its processes on this machine, on the "
    "hosts of a hostfile, or as a chain of Slurm jobs. The same command resumes a run that was interrupted. "
    "`status`, `cancel`, `logs` and `sync` act on runs that were started, `evaluate` starts the evaluation of one: "
    "`python -m launch status --help`.",
    examples=(
        "python -m launch experiment=quickstart",
        "python -m launch run.name=mine stage=mono data=files data.corpora.mono.paths=[code.jsonl]",
        "python -m launch experiment=codegen_2b cluster=slurm_a100 nodes=8 cluster.slurm.partition=gpu",
        "python -m launch model=350m stage=mono data=hub dry_run=true",
        "python -m launch -m optimizer.weight_decay=0.1,0.01",
        "python -m launch status",
        "python -m launch logs -f runs/NAME",
        "python -m launch cancel runs/NAME",
    ),
    flags={
        "-m": "start a run for each value of the settings written KEY=A,B; with Slurm as a job array",
        "--multirun": "as -m",
    },
    groups=True,
    resumable=True,
)
ENDED = {0, BAD_INPUT, UNHEALTHY, INTERRUPTED, *(128 + number for number in STOPPING)}  # codes after which no try helps
SUBCOMMANDS: dict[str, tuple[Command, Callable[[list[str]], int]]] = {
    "status": (status.COMMAND, status.show),
    "cancel": (control.CANCEL, control.cancel),
    "logs": (control.LOGS, control.logs),
    "sync": (control.SYNC, control.sync),
    "evaluate": (evaluate.COMMAND, evaluate.launch),
}


@dataclass(frozen=True)
class LaunchPlan:
    """A run that is to be started, checked.

    overrides: of `python -m train`. resumes: the folder holds this run. unfinished: the stages that are to be trained.
    """

    overrides: list[str]
    settings: Settings
    processes: int
    resumes: bool
    unfinished: list[str]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return run_folder(self.settings)

    @property
    def secrets(self) -> Path:
        """What other hosts read the secret environment variables from while the run is under way."""
        return self.folder.with_name(f".{self.folder.name}.secrets")


def main(argv: list[str]) -> int:
    """Start the run that `argv` describes, or run the subcommand that it begins with; return the exit code."""
    if argv and argv[0] in SUBCOMMANDS:
        command, action = SUBCOMMANDS[argv[0]]
        return run_command(action, argv[1:], command)
    if not argv:  # training for minutes what nobody named would be a surprise
        print(short_help(COMMAND), end="")
        return 0
    return run_command(launch, argv, COMMAND)


def launch(argv: list[str]) -> int:
    """Check every run of `argv`, then start or submit them."""
    flags, overrides = COMMAND.split_flags(argv)
    if overrides and overrides[0].isalpha():
        raise ConfigError(f"'{overrides[0]}' is neither a setting, KEY=VALUE, nor one of {', '.join(SUBCOMMANDS)}")
    sweeps = bool(flags & {"-m", "--multirun"})
    plans = [plan_launch(point) for point in (sweep_points(overrides) if sweeps else [overrides])]
    dry_run = plans[0].settings.dry_run
    for plan in plans:
        if not plan.unfinished:
            print_finished(plan)
            continue
        print(f"{'going on with' if plan.resumes else 'starting'} {plan.folder}: {plan.processes} processes")
        changed = changes(plan.settings) if plan.resumes else []
        for key, was, now in changed:
            print(f"  {key} was {was}, from here {now}")
        if changed or not plan.resumes:
            print(*schedule_lines(plan.settings), sep="\n")
    sys.stdout.flush()
    if plans[0].settings.cluster.kind is ClusterKind.slurm:
        return submit(plans, dry_run)
    for plan in filter(lambda plan: plan.unfinished, plans):
        code = start_here(plan, dry_run)
        if code:
            return code
    return 0


def plan_launch(overrides: list[str]) -> LaunchPlan:
    """Compose and check a run. Errors: `ConfigError`, also where the run has a queued or running job."""
    settings = compose_settings(overrides)
    cluster = settings.cluster
    if cluster.kind is ClusterKind.hostfile:
        processes = sum(read_hostfile(cluster).values())
    else:
        processes = world_size(cluster, settings.layout)
    check(settings, processes)
    check_inputs(settings)
    resumes = check_run_folder(settings)
    folder = run_folder(settings)
    busy = active_job(folder, queue_of([folder]))
    if busy is not None:
        raise ConfigError(f"{folder} is under way as {busy}; see `python -m launch status`, end it with `cancel`")
    kept = [override for override in overrides if not override.startswith("dry_run=")]
    unfinished = unfinished_stages(settings) if resumes else list(settings.stages)
    return LaunchPlan(kept, settings, processes, resumes, unfinished)


def print_finished(plan: LaunchPlan) -> None:
    """Say that a run is finished, and show its summary. Nothing is started, and torch is not loaded."""
    print(f"{plan.folder} is finished: {', '.join(plan.settings.stages)}")
    for name in ("stages.md", "summary.md"):
        if (plan.folder / name).is_file():
            print(f"\n{(plan.folder / name).read_text(encoding='utf-8')}", end="")
    print("train further: stages.NAME.steps=... run.extend=true, or another run.name")


def start_here(plan: LaunchPlan, dry_run: bool) -> int:
    """Prepare the data and train, on this machine or on the hosts of a hostfile; return the exit code."""
    cluster, holder = plan.settings.cluster, owner()
    variables = {**environment(plan.processes, plan.settings.layout), OWNER: holder}
    prepare = [sys.executable, "-m", "train.data", "prepare", *plan.overrides]
    if cluster.kind is ClusterKind.hostfile:
        slots = read_hostfile(cluster)
        address = next(iter(slots)) if dry_run else main_address(cluster, slots)
        variables = {**environment(max(slots.values()), plan.settings.layout), OWNER: holder}
        train = remote_command(
            cluster, slots, address, plan.overrides, variables, plan.secrets, stop_file(plan.folder, holder)
        )
    else:
        train = train_command(plan.overrides, {"localhost": plan.processes})
    if dry_run:
        print(shlex.join(prepare), shlex.join(train), sep="\n")
        return 0
    secrets = secrets_file(plan.secrets) if cluster.kind is ClusterKind.hostfile else nullcontext()
    with run_lock(plan.folder, holder, cluster.lock_seconds), secrets:
        code = run(prepare, {**os.environ, **variables}, cluster.grace_seconds)
        return code or train_until_ended(plan, train, {**os.environ, **variables})


def train_until_ended(plan: LaunchPlan, command: list[str], variables: dict[str, str]) -> int:
    """`train_here`, again after a failure, from the last checkpoint, until tries come no further; the exit code."""
    cluster, tries, furthest = plan.settings.cluster, 0, progress(plan.folder)
    while True:
        code, reached = train_here(plan, command, variables), progress(plan.folder)
        came_further = reached != furthest
        unfit = code == BAD_NODE and not came_further and tries == 0  # it has said so before the first step
        if code in ENDED or unfit:
            return code
        tries, furthest = 1 if came_further else tries + 1, reached
        if tries > cluster.restarts:
            return code
        pause = slurm.RESTART_SECONDS * 2 ** (tries - 1)
        print(
            f"failed with code {code}; going on from the last checkpoint in {pause:g} s "
            f"(try {tries} of {cluster.restarts} without coming further)",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(pause)


def progress(run: Path) -> tuple[str, int]:
    """How far a run has come: stage and step of its newest record."""
    row = newest_step(run)
    return row.get("stage", ""), row.get("step", 0)


def train_here(plan: LaunchPlan, command: list[str], variables: dict[str, str]) -> int:
    """Run the ranks by `command`, with a log and a record of the job in the run's folder; return the exit code."""
    cluster = plan.settings.cluster
    kind, stop = cluster.kind.value, None
    if cluster.kind is ClusterKind.hostfile:

        def stop(_: psutil.Process) -> None:  # a signal does not cross hosts, a file does
            stop_file(plan.folder, variables[OWNER]).touch()

    open_folder(plan)
    log, exit_file = f"jobs/{kind}.log", f"jobs/{kind}.exit"
    add_job(plan.folder, kind, str(os.getpid()), list(plan.settings.stages), platform.node(), log, exit_file)
    code = run(command, variables, cluster.grace_seconds, plan.folder / log, stop)
    (plan.folder / exit_file).write_text(f"{code}\n")
    if code == INTERRUPTED:
        print(f"saved; the same command goes on with {plan.folder}", file=sys.stderr)
    return code


def open_folder(plan: LaunchPlan) -> None:
    """Create the run's folder with its settings and `jobs/`."""
    if plan.resumes:
        record_extension(plan.settings)
    save_settings(plan.settings, plan.folder)
    (plan.folder / "jobs").mkdir(exist_ok=True)


def submit(plans: list[LaunchPlan], dry_run: bool) -> int:
    """Submit a Slurm job per unfinished stage, each after the one before; several runs are a job array per stage."""
    first, array = plans[0].settings, len(plans) > 1
    if any(list(plan.settings.stages) != list(first.stages) for plan in plans):
        raise ConfigError("-m with cluster.kind=slurm needs the same stages in every run")
    stages = [name for name in first.stages if any(name in plan.unfinished for plan in plans)]
    if not stages:
        return 0
    if array:
        title = folder = Path(first.run.root) / ".sweeps" / first.run.group
    else:
        title = plans[0].folder
        folder = title / "jobs"
    number = "%A_%a" if array else "%j"
    scripts = {}
    if first.cluster.slurm.prepare_cpus:
        runs = [(plan.folder.resolve(), plan.overrides) for plan in plans]
        text = slurm.prepare_script(first, runs, str(title), folder / f"{slurm.PREPARE_JOB}-{number}.log")
        scripts[slurm.PREPARE_JOB] = (folder / f"{slurm.PREPARE_JOB}.sh", text)
    for stage in stages:
        runs = [(plan.folder.resolve(), [*plan.overrides, f"run.until={stage}"]) for plan in plans]
        text = slurm.script(first, runs, stage, str(title), folder / f"{stage}-{number}.log")
        scripts[stage] = (folder / f"{stage}.sh", text)
    if dry_run:
        before = None
        for stage, (path, text) in scripts.items():
            command = shlex.join(slurm.sbatch_command(path, before, array))
            whole = stage in (slurm.PREPARE_JOB, stages[0])
            print(
                f"# {path}" + (f"\n{text}" if whole else f": as above, for stage {stage}"),
                f"# {command}\n",
                sep="\n",
            )
            before = f"JOB_OF_{stage.upper()}"
        return 0
    for plan in plans:
        open_folder(plan)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in scripts.values():
        path.write_text(text)
    ids = slurm.submit({stage: path for stage, (path, _) in scripts.items()}, array)
    for stage, id in ids.items():
        for index, plan in enumerate(plans):
            own = f"{id}_{index}" if array else id
            log = folder.resolve() / f"{stage}-{own}.log"
            add_job(plan.folder, "slurm", own, [stage], "", str(log), slurm.exit_name(stage))
        print(f"{stage}: job {id}" + (f", {len(plans)} tasks" if array else ""))
    print(f"`python -m launch status root={first.run.root}` shows how they go")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
