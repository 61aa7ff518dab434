"""The changes with which a stage is resumed (run.extend=true): recorded, and what was read and is read by them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conf.choices import Schedule
from conf.errors import ConfigError
from conf.go_back import drop_after
from conf.mixture import corpora_of
from conf.resume import changes, load, newest_checkpoint_step, refuse_other_data
from conf.run_folder import (
    BEST,
    CHECKPOINTS,
    DATA,
    EVALUATION,
    begun_stages,
    is_finished,
    read_json,
    run_folder,
    stage_folder,
    step_folders,
    step_of,
    write_json,
)
from conf.schema import Settings, StageConfig

EXTENSIONS = "extensions.json"  # below a stage's folder


def read_data(folder: Path) -> dict[str, Any]:
    """What a run read last. folder: the name of its prepared data; digests: corpus -> one of its documents."""
    return {"folder": None, "digests": {}, **(read_json(folder / DATA) if (folder / DATA).is_file() else {})}


def data_under_way(settings: Settings) -> tuple[str, str] | None:
    """The stage under way and the name of the prepared data that it reads; None where no stage has saved a step and is
    to resume with the same data."""
    folder = run_folder(settings)
    name = read_data(folder)["folder"]
    begun = begun_stages(folder, settings.stages)
    if name is None or not begun or is_finished(folder, begun[-1]) or settings.run.extend:
        return None
    return (begun[-1], name) if newest_checkpoint_step(folder, begun[-1]) else None


def other_documents(settings: Settings, digests: Mapping[str, str]) -> dict[str, list[str]]:
    """Corpora of the stage under way whose documents are others than those it has read: key -> digest before and now.

    digests: of the documents of each corpus, as `read_data` has them. Errors: `ConfigError` without run.extend=true.
    """
    folder = run_folder(settings)
    before = read_data(folder)["digests"]
    begun = begun_stages(folder, settings.stages)
    if not begun or not newest_checkpoint_step(folder, begun[-1]):
        return {}
    if is_finished(folder, begun[-1]) and not changes(settings):
        return {}
    read = corpora_of(settings.stages[begun[-1]])
    found = {
        f"data.corpora.{key}": [before[key], digests[key]]
        for key in read
        if key in digests and before.get(key, digests[key]) != digests[key]
    }
    if found and not settings.run.extend:
        raise ConfigError(
            f"the documents of {', '.join(found)} are others than stage {begun[-1]} has read so far (files or commits "
            "have changed, and the data prepared before is gone), and it would read some twice and others never; bring "
            "those back, choose another run.name, or read the new ones from their beginning with run.extend=true"
        )
    if found:
        refuse_other_data(begun[-1], settings)
    return found


def record_extension(settings: Settings, documents: Mapping[str, list[str]] | None = None) -> None:
    """Before the settings are saved: keep what changes with the step and sample it comes after, and reopen the stage.

    documents: of `other_documents`. Records of later steps are dropped, as those are taken again with the new settings.
    A stage that was finished keeps its weights until it is finished again.
    """
    folder = run_folder(settings)
    changed = {key: [was, now] for key, was, now in changes(settings)} | dict(documents or {})
    if not changed:
        return
    saved = load(folder)
    name = begun_stages(folder, saved.stages)[-1]
    before = saved.stages[name]
    newest = newest_checkpoint_step(folder, name)
    step = _go_back_to_stable(folder, name, before, settings.stages[name])
    entries = [entry for entry in read_extensions(folder, name) if entry["after_step"] <= step]
    entry = {
        "after_step": step,
        "after_samples": samples_done(entries, step, before),
        "batch_before": before.global_batch_size,
        "new_data": any(key.startswith("data.") or key.endswith(".corpus") for key in changed),
        "changed": changed,
    }
    write_json(stage_folder(folder, name) / EXTENSIONS, [*entries, entry])
    drop_after(folder, name, step)
    (stage_folder(folder, name) / EVALUATION).unlink(missing_ok=True)
    _reopen_best(stage_folder(folder, name) / BEST, step, comparable=step == newest and not entry["new_data"])


def _reopen_best(path: Path, step: int, comparable: bool) -> None:
    """Count a stage's patience anew. Its best weights are still to be beaten, where its scores can be compared.

    They cannot with other data, nor with those of an annealing that is undone.
    """
    if path.is_file() and comparable:
        record = read_json(path)
        write_json(path, {**record, "seen": min(record["seen"], step), "no_better": 0, "extended_at": step})
    else:
        path.unlink(missing_ok=True)


def _go_back_to_stable(folder: Path, name: str, before: StageConfig, now: StageConfig) -> int:
    """The step that the stage resumes from: that of its newest checkpoint.

    A wsd stage that has annealed goes back to where it began to, as its longer form would not have yet.
    """
    step, stable = newest_checkpoint_step(folder, name), before.steps - before.anneal_steps
    if before.schedule is now.schedule is Schedule.wsd and stable < step and now.steps > before.steps:
        found = {step_of(path): path for path in step_folders(stage_folder(folder, name) / CHECKPOINTS)}
        if stable in found:
            for later in found.keys() - set(range(stable + 1)):
                shutil.rmtree(found[later])
            return stable
    return step


def read_extensions(folder: Path, name: str) -> list[dict[str, Any]]:
    """The changes with which a stage was resumed, oldest first."""
    path = stage_folder(folder, name) / EXTENSIONS
    return list(read_json(path)) if path.is_file() else []


def samples_done(extensions: list[dict[str, Any]], step: int, stage: StageConfig) -> int:
    """Sequences that the stage has read after `step`; each part of it had its own batch."""
    first, samples = 0, 0
    for entry in extensions:
        if step <= entry["after_step"]:
            return samples + (step - first) * int(entry["batch_before"])
        first, samples = entry["after_step"], entry["after_samples"]
    return samples + (step - first) * stage.global_batch_size


def data_position(extensions: list[dict[str, Any]], step: int, stage: StageConfig) -> int:
    """Sequences that the stage has read, after `step`, of the data that it reads now."""
    before = max((int(entry["after_samples"]) for entry in extensions if entry["new_data"]), default=0)
    return samples_done(extensions, step, stage) - before
