"""What may change when a run is resumed, and how a change is recorded.

A run may be called again with other settings. Those of its machines and its records are free. With run.extend=true the
stage under way, or the last one that was finished, resumes from its newest checkpoint with another length, rate, batch,
data or optimizer; `stages/STAGE/extensions.json` keeps each change with the step and the sample it came after.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Any

from conf.choices import Schedule
from conf.compose import load_settings
from conf.errors import ConfigError
from conf.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    STAGES,
    WEIGHTS,
    begun_stages,
    is_finished,
    is_run_folder,
    run_folder,
    stage_folder,
    step_folders,
    step_of,
)
from conf.run_lock import is_of_lock
from conf.schedule import without_derived
from conf.schema import Settings, StageConfig, plain

SHOWN = 6  # settings that a refusal lists


class Rule(Enum):
    """What is needed for a setting to change."""

    free = "any time"
    extend = "run.extend=true"
    never = "never"


# Settings, by the beginning of their names; the longest that fits decides. conf/README.md shows the table.
RULES: dict[str, tuple[Rule, str]] = {
    "layout": (Rule.free, "a checkpoint belongs to no layout"),
    "kernels": (Rule.free, "the same operations, computed another way"),
    "cluster": (Rule.free, "where it runs"),
    "tracking": (Rule.free, "what is recorded"),
    "health": (Rule.free, "what is watched"),
    "profile": (Rule.free, "what is measured"),
    "evaluation": (Rule.free, "what is measured"),
    "recipe": (Rule.free, "the stages hold what came of it"),
    "dry_run": (Rule.free, "nothing is started"),
    "run": (Rule.free, "name, saving, resuming"),
    "run.seed": (Rule.never, "it ordered the data that was read"),
    "data.cache": (Rule.free, "where prepared data is kept"),
    "data.workers": (Rule.free, "how fast data is prepared"),
    "data.on_error": (Rule.free, "what becomes of files that cannot be read"),
    "data": (Rule.extend, "the new data is read from its beginning; the tokenizer stays the run's"),
    "optimizer": (Rule.extend, "the moments are kept"),
    "finetune": (Rule.never, "weights and moments have its shapes"),
    "model": (Rule.never, "weights and moments have its shapes"),
    "stages": (Rule.extend, "of the stage under way or finished last; the optimizer and the data's position are kept"),
    "stages.NAME.mixture": (Rule.never, "of a stage that has begun: its position in the data is read through it"),
    "stages.NAME.mixture_phases": (
        Rule.never,
        "of a stage that has begun: its position in the data is read through it",
    ),
    "stages.NAME.init_from": (Rule.never, "of a stage that has begun"),
    "stages.NAME.handover": (Rule.never, "of a stage that has begun"),
}
WSD_FREE = ("steps", "anneal_steps")  # of a wsd stage that is still stable before and after the change


def differences(one: Any, other: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(key, value in `one`, value in `other`) for every setting in which they differ and that is not always free."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other or rule_of(prefix)[0] is Rule.free else [(prefix, one, other)]
    if prefix.count(".") == 1 and prefix.startswith("stages."):
        one, other = without_derived(one), without_derived(other)
    found = []
    for key in sorted(one.keys() | other.keys()):
        found += differences(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else key)
    return found


def rule_of(key: str) -> tuple[Rule, str]:
    """The rule for a setting, and its reason."""
    parts = key.split(".")
    if parts[0] == "stages" and len(parts) > 2:
        parts[1] = "NAME"
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((RULES[name] for name in names if name in RULES), (Rule.extend, ""))


def check_run_folder(settings: Settings) -> bool:
    """True where the folder holds this run already, false where it holds none that has recorded a step.

    Errors: `ConfigError` where it holds a different run, naming the settings that differ, where run.resume=never, or
    for a path that no script can hold.
    """
    folder = run_folder(settings)
    path = str(folder.absolute())
    if re.search(r"[^\S ]", path):
        raise ConfigError(f"run.root: {path!r} has a line break; choose another")
    if not is_run_folder(folder):
        if folder.is_dir() and not all(map(is_of_lock, folder.iterdir())):
            raise ConfigError(f"{folder} is not empty and holds no run; choose another folder with run.name=...")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; choose another folder with run.name=...")
        return False
    trained = (f"{STAGES}/*/{CHECKPOINTS}/*", f"{STAGES}/*/{WEIGHTS}")
    if not (folder / METRICS).is_file() and not any(any(folder.glob(pattern)) for pattern in trained):
        return False
    if settings.run.resume == "never":
        raise ConfigError(f"{folder} holds a run already; resume with run.resume=auto or choose another run.name")
    changes(settings)
    return True


def changes(settings: Settings) -> list[tuple[str, Any, Any]]:
    """(key, before, now) of what the run in the folder resumes with. Errors: `ConfigError` for what may not change.

    What is free, and what belongs to a stage that has not begun, is left out.
    """
    folder = run_folder(settings)
    saved = load(folder)
    found = differences(plain(saved), plain(settings))
    begun = begun_stages(folder, saved.stages)
    needed = []
    for key, was, now in found:
        name = key.split(".")[1] if key.startswith("stages.") else ""
        rule = rule_of(key)[0]
        if name and name not in begun:
            continue
        if name and (name != begun[-1] or name not in settings.stages):
            rule = Rule.never
        elif name and key.endswith(".global_batch_size"):
            _refuse_other_batch(name, settings.stages[name])
        elif key.startswith("data.") and begun:
            refuse_other_data(begun[-1], settings)
        elif name and key.rpartition(".")[2] in WSD_FREE and _stays_stable(folder, name, saved, settings):
            rule = Rule.free
        needed.append((rule, key, was, now))
    if begun != list(settings.stages)[: len(begun)]:
        needed.append((Rule.never, "stage", ",".join(begun), ",".join(settings.stages)))
    refused = [each for each in needed if each[0] is Rule.never]
    refused += [each for each in needed if each[0] is Rule.extend and not settings.run.extend]
    if refused:
        raise ConfigError(_refusal(folder, refused))
    _refuse_too_short(folder, begun, settings)
    return [(key, was, now) for _, key, was, now in needed]


def _refuse_other_batch(name: str, stage: StageConfig) -> None:
    """Errors: `ConfigError` where what is counted in batches would be counted anew, as if all had been of this size."""
    what = next((key for key in ("epochs", "tokens", "mixture_phases") if getattr(stage, key)), None)
    if what is not None:
        remedy = "keep the batch" if what == "mixture_phases" else f"keep the batch, or set stages.{name}.steps instead"
        raise ConfigError(
            f"stages.{name}.global_batch_size={stage.global_batch_size} is another one than stage {name} began with, "
            f"and stages.{name}.{what} is counted in batches; {remedy}"
        )


def refuse_other_data(name: str, settings: Settings) -> None:
    """Errors: `ConfigError` where the phases of a mixture would begin again with the data."""
    if settings.run.extend and settings.stages.get(name) and settings.stages[name].mixture_phases:
        raise ConfigError(
            f"stages.{name}.mixture_phases are counted from the beginning of the data, which stage {name} is to read "
            "anew; keep the data, or choose another run.name"
        )


def unfinished_stages(settings: Settings) -> list[str]:
    """The stages of the run in the folder that are to be trained: those not finished, and one that is extended."""
    folder = run_folder(settings)
    names = list(settings.stages)
    if settings.run.until is not None:
        names = names[: names.index(settings.run.until) + 1]
    begun = begun_stages(folder, names)
    extended = begun[-1:] if changes(settings) else []
    return [name for name in names if name in extended or not is_finished(folder, name)]


def load(folder: Path) -> Settings:
    """The settings that the run in `folder` was saved with."""
    return load_settings(folder / CONFIG)


def _refusal(folder: Path, refused: list[tuple[Rule, str, Any, Any]]) -> str:
    listed = "; ".join(f"{key} was {was}, now {now}" for _, key, was, now in refused[:SHOWN])
    more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    remedy = "choose another run.name, or take these back"
    if all(rule is Rule.extend for rule, *_ in refused):
        remedy += ", or resume with them from here with run.extend=true"
    return f"{folder} holds a different run: {listed}{more}; {remedy}"


def _stays_stable(folder: Path, name: str, saved: Settings, asked: Settings) -> bool:
    """Whether the wsd stage has not begun to anneal, under the old settings or the new."""
    stages = (saved.stages[name], asked.stages[name])
    step = newest_checkpoint_step(folder, name)
    return all(s.schedule is Schedule.wsd and step <= s.steps - s.anneal_steps for s in stages)


def newest_checkpoint_step(folder: Path, name: str) -> int:
    """The step of the newest checkpoint of a stage, 0 without one."""
    return max(map(step_of, step_folders(stage_folder(folder, name) / CHECKPOINTS)), default=0)


def _refuse_too_short(folder: Path, begun: list[str], settings: Settings) -> None:
    for name in begun[-1:]:
        steps, step = settings.stages[name].steps, newest_checkpoint_step(folder, name)
        if 0 < steps < step:
            raise ConfigError(f"stages.{name}.steps={steps}, but {folder} has taken {step}; give more")
