"""A run started here: on this machine, or on the hosts of a hostfile; tried again while that helps."""

import contextlib
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from conf.choices import ClusterKind
from conf.exit_codes import BAD_NODE, INTERRUPTED, describe
from conf.run_folder import newest_checkpoint, newest_step, run_folder, save_settings
from conf.run_lock import OWNER, new_owner, run_lock, stop_file
from conf.schema import Settings
from launch.hosts import Hosts
from launch.jobs import add_job
from launch.local import HERE, environment, gpu_environment, kept, machine_environment, train_command
from launch.processes import ENDED, STOPPED, ending_on_signals, run


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


def start_here(plan: LaunchPlan, dry_run: bool) -> int:
    """Prepare the data and train, on this machine or on the hosts of a hostfile; return the exit code."""
    cluster, layout, holder = plan.settings.cluster, plan.settings.layout, new_owner()
    prepare = [sys.executable, "-m", "train.data", "prepare", *plan.overrides]
    hosts = Hosts(plan.folder, plan.overrides, plan.settings) if cluster.kind is ClusterKind.hostfile else None
    given = environment(plan.processes, layout) if hosts is None else kept(gpu_environment(layout))
    variables = {**given, OWNER: holder}
    if dry_run:
        if hosts is None:
            train = train_command(plan.overrides, {HERE: plan.processes})
        else:
            train = hosts.command(variables, next(iter(hosts.used)))
        print(shlex.join(prepare), shlex.join(train), sep="\n")
        return 0
    if hosts is not None:
        hosts.meet()  # before data is prepared for hosts that are not there
    try:
        with ending_on_signals(), run_lock(plan.folder, holder, cluster.lock_seconds, all_here=hosts is None):
            code = run(prepare, {**os.environ, **machine_environment(1), **variables}, cluster.grace_seconds)
            return code or train_until_ended(plan, variables, hosts)
    finally:
        with contextlib.suppress(OSError):  # of a run that did not begin: a folder with anything in it stays
            plan.folder.rmdir()


def train_until_ended(plan: LaunchPlan, variables: dict[str, str], hosts: Hosts | None = None) -> int:
    """`train_here`, again after a failure, from the last checkpoint, until tries come no further; the exit code."""
    cluster, tries, furthest = plan.settings.cluster, 0, progress(plan.folder)
    while True:
        code, reached = train_here(plan, variables, hosts), progress(plan.folder)
        came_further = reached != furthest
        unfit = code == BAD_NODE and not came_further and tries == 0  # it has said so before the first step
        if code in ENDED or (unfit and not (hosts and hosts.spares)):
            return code
        tries, furthest = 1 if came_further else tries + 1, reached
        if tries > cluster.restarts:
            return code
        pause = cluster.restart_seconds * 2 ** (tries - 1)
        print(
            f"failed with {describe(code)}; resuming from the last checkpoint in {pause:g} s "
            f"(try {tries} of {cluster.restarts} without coming further)",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(pause)


def progress(run: Path) -> tuple[str, int]:
    """How far a run has come: stage and step of its newest record."""
    row = newest_step(run)
    return row.get("stage", ""), row.get("step", 0)


def train_here(plan: LaunchPlan, variables: dict[str, str], hosts: Hosts | None) -> int:
    """Run the ranks, with a log and a record of the job in the run's folder; return the exit code.

    What is said of a stop is what is on the disk: which checkpoint the run resumes from.
    """
    cluster = plan.settings.cluster
    kind, stop = cluster.kind.value, None
    open_folder(plan)
    for sign in plan.folder.glob("hangs/*.alive"):  # of the last try's ranks (train/signs.py)
        sign.unlink(missing_ok=True)
    log, exit_file = f"jobs/{kind}.log", f"jobs/{kind}.exit"
    add_job(plan.folder, kind, str(os.getpid()), list(plan.settings.stages), platform.node(), log, exit_file)
    if hosts is None:
        command = train_command(plan.overrides, {HERE: plan.processes})
        code = run(command, {**os.environ, **variables}, cluster.grace_seconds, plan.folder / log)
    else:

        def stop(_: psutil.Process) -> None:  # a signal does not cross hosts, a file does
            stop_file(plan.folder, variables[OWNER]).touch()

        code = hosts.train(variables, plan.folder / log, stop)
    saved = newest_checkpoint(plan.folder)
    where = "from the beginning" if saved is None else f"after {saved[0]} step {saved[1]}"
    if code == INTERRUPTED:
        print(f"saved; the same command resumes {plan.folder} {where}", file=sys.stderr)
    elif code in STOPPED:
        print(f"ended before it had saved; the same command resumes {plan.folder} {where}", file=sys.stderr)
    (plan.folder / exit_file).write_text(f"{code}\n")
    return code


def open_folder(plan: LaunchPlan) -> None:
    """Create the run's folder with its settings and `jobs/`.

    A run that is resumed keeps the settings it has: training may still refuse the new ones (train/run_directory.py).
    """
    if not plan.resumes:
        save_settings(plan.settings, plan.folder)
    (plan.folder / "jobs").mkdir(exist_ok=True)
