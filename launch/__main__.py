"""`python -m launch`: compose and check the settings, prepare the data, start the processes.

`python -m launch status|cancel|logs|sync` acts on runs that were started; `evaluate` starts the evaluation of one.
"""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from conf.check import check
from conf.choices import ClusterKind
from conf.command_line import MULTIRUN, Command, run_command
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.help import short_help
from conf.inputs import check_inputs
from conf.resume import changes, check_run_folder, unfinished_stages
from conf.run_folder import run_folder
from conf.schedule import schedule_lines
from conf.this_machine import check_this_machine
from launch import control, evaluate, slurm, status
from launch.here import LaunchPlan, open_folder, start_here
from launch.hostfile import hosts_of
from launch.jobs import REFUSED, add_job
from launch.local import visible_gpus, world_size
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
)
SUBCOMMANDS: dict[str, tuple[Command, Callable[[list[str]], int]]] = {
    "status": (status.COMMAND, status.show),
    "cancel": (control.CANCEL, control.cancel),
    "logs": (control.LOGS, control.logs),
    "sync": (control.SYNC, control.sync),
    "evaluate": (evaluate.COMMAND, evaluate.launch),
}


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
    sweeps = bool(flags & MULTIRUN)
    plans = [plan_launch(point) for point in (sweep_points(overrides) if sweeps else [overrides])]
    dry_run = plans[0].settings.dry_run
    for plan in plans:
        if not plan.unfinished:
            print_finished(plan)
            continue
        if plan.settings.run.extend and not plan.resumes:
            print(f"warning: run.extend=true has nothing to extend: {plan.folder} is new", file=sys.stderr)
        print(f"{'resuming' if plan.resumes else 'starting'} {plan.folder}: {plan.processes} processes")
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
        processes = sum(hosts_of(cluster)[0].values())
    else:
        processes = world_size(cluster, settings.layout)
    check(settings, processes)
    check_inputs(settings)
    if cluster.kind is ClusterKind.local:
        check_this_machine(settings, bool(visible_gpus()))
    resumes = check_run_folder(settings)
    folder = run_folder(settings)
    busy = active_job(folder, queue_of([folder]))
    if busy is not None:
        raise ConfigError(f"{folder} is under way as {busy}; see `python -m launch status`, end it with `cancel`")
    kept = [override for override in overrides if not override.startswith("dry_run=")]
    if settings.run.resume == "never":  # answered here: the ranks, a retry and the next stage's job find this very run
        kept.append("run.resume=auto")
    unfinished = unfinished_stages(settings) if resumes else list(settings.stages)
    return LaunchPlan(kept, settings, processes, resumes, unfinished)


def print_finished(plan: LaunchPlan) -> None:
    """Say that a run is finished, and show its summary. Nothing is started, and torch is not loaded."""
    print(f"{plan.folder} is finished: {', '.join(plan.settings.stages)}")
    for name in ("stages.md", "summary.md"):
        if (plan.folder / name).is_file():
            print(f"\n{(plan.folder / name).read_text(encoding='utf-8')}", end="")
    print("train further: stages.NAME.steps=... run.extend=true, or another run.name")


def submit(plans: list[LaunchPlan], dry_run: bool) -> int:
    """Submit a Slurm job per unfinished stage, each after the one before; several runs are a job array per stage."""
    first, array = plans[0].settings, len(plans) > 1
    if any(list(plan.settings.stages) != list(first.stages) for plan in plans):
        raise ConfigError("-m with cluster.kind=slurm needs the same stages in every run")
    if any((plan.processes, plan.settings.cluster) != (plans[0].processes, first.cluster) for plan in plans):
        raise ConfigError("-m with cluster.kind=slurm needs the same nodes in every run: cluster.* cannot be swept")
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
        tasks = [slurm.Task(plan.settings, plan.folder.resolve(), plan.overrides) for plan in plans]
        text = slurm.prepare_script(tasks, str(title), folder / f"{slurm.PREPARE_JOB}-{number}.log")
        scripts[slurm.PREPARE_JOB] = (folder / f"{slurm.PREPARE_JOB}.sh", text)
    for stage in stages:
        tasks = [
            slurm.Task(plan.settings, plan.folder.resolve(), [*plan.overrides, f"run.until={stage}"]) for plan in plans
        ]
        text = slurm.script(tasks, stage, str(title), folder / f"{stage}-{number}.log")
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
        path.write_text(text, encoding="utf-8")
    try:
        ids = slurm.submit({stage: path for stage, (path, _) in scripts.items()}, array)
    except ConfigError as error:
        for plan in plans:
            (plan.folder / REFUSED).write_text(f"{error}\n", encoding="utf-8")
        raise
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
