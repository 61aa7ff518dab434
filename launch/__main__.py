"""`python -m launch key=value ...`: compose the settings, check them, prepare the data, start the processes.

`python -m launch status|cancel|logs|sync` looks after what was started.
"""

import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from conf.check import check
from conf.choices import ClusterKind
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.exit_codes import BAD_INPUT, INTERRUPTED
from conf.run_folder import check_run_folder, is_finished, run_folder, save_settings
from conf.schema import Settings
from launch import slurm
from launch.control import COMMANDS
from launch.hostfile import main_address, read_hostfile, remote_command
from launch.jobs import add_job
from launch.local import environment, train_command, world_size
from launch.processes import run
from launch.status import Queue, active_job
from launch.sweep import points


@dataclass(frozen=True)
class Start:
    """A run that is to be started, checked."""

    words: list[str]  # of `python -m train`
    settings: Settings
    processes: int
    resumes: bool

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return run_folder(self.settings)


def main(words: list[str]) -> int:
    """Run the job that `words` describe, or the command they begin with, and return the exit code."""
    try:
        if words and words[0] in COMMANDS:
            return COMMANDS[words[0]](words[1:])
        several = any(word in ("-m", "--multirun") for word in words)
        words = [word for word in words if word not in ("-m", "--multirun")]
        queue = slurm.queue()
        starts = [check_start(point, queue) for point in (points(words) if several else [words])]
        dry_run = starts[0].settings.dry_run
        for each in starts:
            print(f"{'going on with' if each.resumes else 'starting'} {each.folder}: {each.processes} processes")
        sys.stdout.flush()
        if starts[0].settings.cluster.kind is ClusterKind.slurm:
            return submit(starts, dry_run)
        for each in starts:
            code = start_here(each, dry_run)
            if code:
                return code
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def check_start(words: list[str], queue: Queue) -> Start:
    """Compose and check the run that `words` describe. Errors: `ConfigError`, also where the run is under way."""
    settings = compose_settings(words)
    cluster = settings.cluster
    if cluster.kind is ClusterKind.hostfile:
        processes = sum(read_hostfile(cluster).values())
    else:
        processes = world_size(cluster, settings.layout)
    check(settings, processes)
    resumes = check_run_folder(settings)
    folder = run_folder(settings)
    busy = active_job(folder, queue)
    if busy is not None:
        raise ConfigError(f"{folder} is under way as {busy}; see `python -m launch status`, end it with `cancel`")
    return Start([word for word in words if not word.startswith("dry_run=")], settings, processes, resumes)


def start_here(start: Start, dry_run: bool) -> int:
    """Prepare the data and train, on this machine or on the hosts of a hostfile; return the exit code."""
    cluster, stop = start.settings.cluster, None
    variables = environment(start.processes)
    prepare = [sys.executable, "-m", "train.data", "prepare", *start.words]
    if cluster.kind is ClusterKind.hostfile:
        slots = read_hostfile(cluster)
        address = next(iter(slots)) if dry_run else main_address(cluster, slots)
        variables = environment(max(slots.values()))
        train = remote_command(cluster, slots, address, start.words, variables)

        def stop(_: psutil.Process) -> None:  # a signal does not cross hosts, a file does
            (start.folder / "stop").touch()
    else:
        train = train_command(start.words, {"localhost": start.processes})
    if dry_run:
        print(shlex.join(prepare), shlex.join(train), sep="\n")
        return 0
    code = run(prepare, {**os.environ, **variables})
    if code:
        return code
    open_folder(start)
    log, exit_file = f"jobs/{cluster.kind.value}.log", f"jobs/{cluster.kind.value}.exit"
    add_job(
        start.folder,
        cluster.kind.value,
        str(os.getpid()),
        list(start.settings.stages),
        platform.node(),
        log,
        exit_file,
    )
    code = run(train, {**os.environ, **variables}, start.folder / log, stop)
    (start.folder / exit_file).write_text(f"{code}\n")
    if code == INTERRUPTED:
        print(f"saved; the same command goes on with {start.folder}", file=sys.stderr)
    return code


def open_folder(start: Start) -> None:
    """Make the run's folder, with its settings and room for scripts and logs."""
    save_settings(start.settings, start.folder)
    (start.folder / "jobs").mkdir(exist_ok=True)


def submit(starts: list[Start], dry_run: bool) -> int:
    """Submit one Slurm job a stage, each after the one before; several runs are one job array a stage."""
    first, array = starts[0].settings, len(starts) > 1
    if any(list(start.settings.stages) != list(first.stages) for start in starts):
        raise ConfigError("-m with cluster.kind=slurm needs the same stages in every run")
    stages = [name for name in first.stages if not all(is_finished(start.folder, name) for start in starts)]
    if not stages:
        print("every stage is finished")
        return 0
    if array:
        what = folder = Path(first.run.root) / ".sweeps" / first.experiment
    else:
        what = starts[0].folder
        folder = what / "jobs"
    number = "%A_%a" if array else "%j"
    scripts = {}
    for stage in stages:
        runs = [(each.folder.resolve(), [*each.words, f"run.until={stage}"]) for each in starts]
        text = slurm.script(first.cluster, runs, stage, str(what), folder / f"{stage}-{number}.log")
        scripts[stage] = (folder / f"{stage}.sh", text)
    if dry_run:
        before = None
        for stage, (path, text) in scripts.items():
            command = shlex.join(slurm.sbatch_command(path, before, array))
            print(f"# {path}\n{text}\n# {command}\n")
            before = f"JOB_OF_{stage.upper()}"
        return 0
    for each in starts:
        open_folder(each)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in scripts.values():
        path.write_text(text)
    ids = slurm.submit({stage: path for stage, (path, _) in scripts.items()}, array)
    for stage, id in ids.items():
        for index, each in enumerate(starts):
            own = f"{id}_{index}" if array else id
            log = folder.resolve() / f"{stage}-{own}.log"
            add_job(each.folder, "slurm", own, [stage], "", str(log), slurm.exit_name(stage))
        print(f"{stage}: job {id}" + (f", {len(starts)} tasks" if array else ""))
    print(f"`python -m launch status root={first.run.root}` shows how they go")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
