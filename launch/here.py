"""A run started here: on this machine, or on the hosts of a hostfile; tried again while that helps."""

import os
import platform
import shlex
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from conf.choices import ClusterKind
from conf.exit_codes import BAD_INPUT, BAD_NODE, INTERRUPTED, UNHEALTHY
from conf.resume import record_extension
from conf.run_folder import newest_step, run_folder, save_settings
from conf.run_lock import OWNER, owner, run_lock, stop_file
from conf.schema import Settings
from launch import slurm
from launch.hostfile import main_address, read_hostfile, remote_command, secrets_file
from launch.jobs import add_job
from launch.local import environment, train_command
from launch.processes import STOPPING, ending_on_signals, run

ENDED = {0, BAD_INPUT, UNHEALTHY, INTERRUPTED, *(128 + number for number in STOPPING)}  # codes after which no try helps


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
    with ending_on_signals(), run_lock(plan.folder, holder, cluster.lock_seconds), secrets:
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
