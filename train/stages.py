"""Stages: where each one's weights come from, and what it leaves behind for the next."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from conf.check import ConfigError
from conf.compose import load_settings
from conf.schema import Handover, Settings
from model.codegen import layers
from model.init import initialise
from parallel.cross_entropy import LossOptions
from parallel.engine import Engine, build_engine
from parallel.zero import deepspeed_config
from train.balance import layer_costs
from train.checkpoint import load_layer, newest_checkpoint
from train.job import Job
from train.optimizer import adamw
from train.run_directory import read_json


def stage_folder(run: Path, name: str) -> Path:
    """Where the stage `name` of a run keeps what it makes."""
    return run / "stages" / name


def is_finished(run: Path, name: str) -> bool:
    """Whether the stage ran to its end: its weights and its evaluation are there."""
    folder = stage_folder(run, name)
    return (folder / "weights").is_dir() and (folder / "evaluation.json").is_file()


def parent_of(run: Path, name: str, settings: Settings) -> Path | None:
    """The folder of the stage whose weights `name` starts from: `init_from`'s last, the one before it, or none.

    Errors: `ConfigError` where `init_from` is a run of another model, or has not finished.
    """
    stage = settings.stages[name]
    if stage.init_from is None:
        names = list(settings.stages)
        before = names.index(name) - 1
        return stage_folder(run, names[before]) if before >= 0 else None
    source = Path(stage.init_from)
    other = load_settings(source / "config.yaml")
    shape = replace(settings.model, name=other.model.name, dropout=other.model.dropout)
    if other.model != shape:
        raise ConfigError(
            f"stages.{name}.init_from={source} holds another model: {other.model.name}, not {settings.model.name}"
        )
    last = list(other.stages)[-1]
    if not is_finished(source, last):
        raise ConfigError(f"stages.{name}.init_from={source} has not finished its stage {last}")
    return stage_folder(source, last)


def open_engine(job: Job, name: str, parent: Path | None) -> tuple[Engine, int]:
    """The stage's engine and the optimizer steps it has behind it.

    A new stage starts from its parent's weights, or from the seed; one that was interrupted from its last checkpoint.
    Errors: `ConfigError` where the checkpoints are all damaged, or a full handover finds none.
    """
    settings, world, stage = job.settings, job.world, job.settings.stages[name]
    folder = stage_folder(job.folder, name)
    config = deepspeed_config(settings, stage.global_batch_size, world.size, job.precision)
    job.write(folder / "deepspeed.json", config)
    loss = LossOptions(
        settings.optimizer.z_loss, settings.layout.loss_chunk_tokens, world.tensor, job.operations.compile
    )

    def set_weights(layer: nn.Module, index: int) -> None:
        if parent is None:
            initialise(layer, index, settings.model, world.tensor, settings.run.seed)
        else:
            load_layer(parent / "weights", layer, index, world.tensor)

    engine = build_engine(
        layers(settings.model, world.tensor, job.operations, settings.layout.recompute, loss),
        set_weights,
        layer_costs(job),
        partial(adamw, settings=settings.optimizer, n_layer=settings.model.n_layer),
        config,
        world,
    )
    newest = newest_checkpoint(folder / "checkpoints", world, job.say)
    if newest is not None:
        engine.load(newest.parent, newest.name)
        return engine, int(read_json(newest / "state.json")["step"])
    if parent is not None and stage.handover is Handover.full:
        newest = newest_checkpoint(parent / "checkpoints", world, job.say)
        if newest is None:
            raise ConfigError(f"stages.{name}.handover=full needs a checkpoint below {parent}, and there is none")
        engine.load(newest.parent, newest.name)
    return engine, 0


def lineage(run: Path, name: str, parent: Path | None, settings: Settings) -> dict[str, Any]:
    """Where a stage's weights came from, back to the random ones: what makes nl -> multi -> mono data."""
    stage = settings.stages[name]
    ancestors = [] if parent is None else read_json(parent / "lineage.json")["lineage"]
    return {
        "run": str(run),
        "stage": name,
        "corpus": stage.corpus,
        "parent": None if parent is None else str(parent),
        "handover": None if parent is None else stage.handover.value,
        "steps": stage.steps,
        "tokens": stage.steps * stage.global_batch_size * settings.model.context_length,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": [*ancestors, f"{settings.run.name}/{name}"],
    }
