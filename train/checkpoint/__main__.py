"""`python -m train.checkpoint list|verify|prune RUN`: the checkpoints of a run, for people."""

import sys
from collections.abc import Iterator
from pathlib import Path

from conf.checksums import damage, shortfall
from conf.command_line import Command, run_command
from conf.compose import load_settings
from conf.errors import ConfigError
from conf.run_folder import (
    CHECKPOINTS,
    CONFIG,
    EVALUATION,
    is_run_folder,
    read_json,
    stage_folder,
    step_folders,
    step_of,
)
from train.checkpoint.files import Keep, delete, remove, score_of, to_remove
from train.schedule import last_stable_step

COMMAND = Command(
    program="python -m train.checkpoint",
    usage="list|verify|prune RUN",
    summary="`list` prints the checkpoints of a run; `verify` reads every byte of them (exit code 2 where one is "
    "damaged); `prune` reads them as well, and removes what saves that did not end have left, damaged ones, and "
    "those that the run's settings (run.keep_checkpoints, run.keep_every, run.keep_best) do not keep: never the last "
    "one that is whole. Prune no run that is under way.",
    examples=("python -m train.checkpoint list runs/mine", "python -m train.checkpoint verify runs/mine"),
)


def main(argv: list[str]) -> int:
    """Run the action that `argv` begins with and return the exit code."""
    return run_command(_run, argv, COMMAND)


def _run(argv: list[str]) -> int:
    actions = {"list": show, "verify": verify, "prune": prune}
    if len(argv) != 2 or argv[0] not in actions:
        raise ConfigError(f"say what to do with which run: {COMMAND.program} {COMMAND.usage}")
    run = Path(argv[1])
    if not is_run_folder(run):
        raise ConfigError(f"{run} is not the folder of a run")
    return actions[argv[0]](run)


def show(run: Path) -> int:
    """Print a line a checkpoint: stage, step, size, validation score where it was evaluated, what is missing."""
    found = list(_checkpoints(run))
    width = _stage_width(found)
    print(f"{'stage':<{width}} {'step':>8}  {'size':>12}  bits per byte")
    for stage, path in found:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        score = score_of(path)
        if score is None:
            score = _last_score(run, stage, step_of(path))
        line = f"{stage:<{width}} {step_of(path):>8}  {size / 2**30:8.3f} GiB  "
        line += f"{'-' if score is None else f'{score:.4f}':>13}"
        print(line + (f"  not whole: {missing}" if (missing := shortfall(path)) else ""))
    return 0


def _last_score(run: Path, stage: str, step: int) -> float | None:
    """The validation score of a stage that ended at `step`: it is evaluated after its last checkpoint is saved."""
    path = stage_folder(run, stage) / EVALUATION
    found = read_json(path) if path.is_file() else {}
    if found.get("step") != step:
        return None
    score = found.get("bits_per_byte", {}).get(load_settings(run / CONFIG).stages[stage].corpus)
    return None if score is None else float(score)


def verify(run: Path) -> int:
    """Read every checkpoint. Errors: `ConfigError` where one is damaged."""
    damaged, checkpoints = [], list(_checkpoints(run))
    width = _stage_width(checkpoints)
    for stage, path in checkpoints:
        found = damage(path)
        print(f"{stage:<{width}} {step_of(path):>8}  {found or 'whole'}", flush=True)
        damaged += [path] if found else []
    if damaged:
        raise ConfigError(f"{len(damaged)} damaged, the first is {damaged[0]}; a run resumes from the newest whole one")
    return 0


def prune(run: Path) -> int:
    """Remove what the settings do not keep, and what killed saves have left.

    Every checkpoint is read first, and damaged ones count as none: what the settings keep is whole.
    Errors: `ConfigError` for a stage whose checkpoints are all damaged; none of it is removed.
    """
    settings = load_settings(run / CONFIG)
    for stage, config in settings.stages.items():
        run_settings, stable = settings.run, last_stable_step(config)
        keep = Keep(run_settings.keep_checkpoints, run_settings.keep_every, run_settings.keep_best, stable)
        folder = stage_folder(run, stage) / CHECKPOINTS
        damaged = {path: found for path in step_folders(folder) if (found := damage(path))}
        if damaged and len(damaged) == len(step_folders(folder)):
            raise ConfigError(f"every checkpoint in {folder} is damaged, none is removed ({damaged.popitem()[1]})")
        for path in sorted(folder.glob("*.partial")):
            delete(path)
            print(f"removed {path}")
        for path, found in damaged.items():  # before the others are counted
            remove(path)
            print(f"removed {path}: {found}")
        for path in to_remove(folder, keep):
            remove(path)
            print(f"removed {path}")
    return 0


def _stage_width(checkpoints: list[tuple[str, Path]]) -> int:
    """Characters of the column of stages, with its head."""
    return max(len(name) for name in ("stage", *(stage for stage, _ in checkpoints)))


def _checkpoints(run: Path) -> Iterator[tuple[str, Path]]:
    for stage in load_settings(run / CONFIG).stages:
        for path in step_folders(stage_folder(run, stage) / CHECKPOINTS):
            yield stage, path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
