"""Composes command-line overrides into checked, typed settings."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from conf.check import AUTO, check
from conf.command_line import SEARCH_PATH, own_folders
from conf.errors import ConfigError
from conf.explain import (
    FOLDER,
    choices_of,
    chosen_file,
    experiment_file,
    explain,
    first_line,
    mention,
    size_fallback,
    unresolved,
)
from conf.meant import GROUPS
from conf.schedule import COUNTED, choose_schedules, count_steps
from conf.schema import Settings


def compose_config(overrides: list[str]) -> DictConfig:
    """Compose the groups in this folder, and in those of `hydra.searchpath`, with `overrides`; types are checked.

    Errors: `ConfigError`, one line, for an unknown key or group, a wrong type, or words Hydra cannot read.
    """
    overrides = [_written_out(word) for word in overrides]
    folders = [FOLDER, *own_folders(overrides)]
    _refuse_unknown_words(overrides, folders)
    with _hydra():
        try:
            config = _compose(overrides, folders)
            if any(word.startswith("+") for word in overrides):
                _only_known(config)
            _count_auto(config, folders)
            choose_schedules(config, overrides, experiment_file(overrides, folders))
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(explain(error, overrides, folders)) from None
        try:
            OmegaConf.resolve(config)
        except OmegaConfBaseException as error:
            raise ConfigError(unresolved(config, error, overrides, folders)) from None
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        place = chosen_file(missing[0], overrides, folders)
        raise ConfigError(f"{place}{missing[0]} has no value; write {missing[0]}=...")
    for name, stage in count_steps(typed(config)).stages.items():
        for key in COUNTED:
            config.stages[name][key] = getattr(stage, key)
    return config


@contextmanager
def _hydra() -> Iterator[None]:
    ConfigStore.instance().store(name="schema", node=Settings)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        yield


def _compose(overrides: list[str], folders: list[Path]) -> DictConfig:
    """Compose. A model without a recipe or a cluster layout of its own takes another size's, and a line says so."""
    while True:
        try:
            return compose("config", overrides)
        except MissingConfigException as error:
            fallback = size_fallback(error.missing_cfg_file or "", folders)
            if fallback is None:
                raise
            word, line = fallback
            note(line)
            overrides = [*overrides, word]
        except TypeError as error:  # OmegaConf's, for a key that reaches into a list
            raise ConfigError(explain(error, overrides, folders)) from None


@cache
def note(line: str) -> None:
    """Tell the person at the terminal something about the settings; once, and on the main process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {line}", file=sys.stderr, flush=True)


def print_info(overrides: list[str]) -> None:
    """Print Hydra's search path, and the files that make up the settings: what `--info` does."""
    overrides = [_written_out(word) for word in overrides]
    root = logging.getLogger()
    before, tree = list(root.handlers), io.StringIO()
    with _hydra(), redirect_stdout(tree):  # to be printed at once: logging reports a reader that has gone line by line
        cast(Hydra, GlobalHydra.instance().hydra).show_info("defaults-tree", "config", overrides)
        root.handlers = before
    print("Search path:", FOLDER, *own_folders(overrides), sep="\n  ")
    print(tree.getvalue(), end="")


def compose_settings(overrides: list[str], world_size: int | None = None) -> Settings:
    """Compose `overrides` into `Settings` and check them, against `world_size` processes where that is known.

    Errors: `ConfigError`, one line.
    """
    settings = typed(compose_config(overrides))
    check(settings, world_size)
    return settings


def typed(config: DictConfig) -> Settings:
    """The dataclasses that `config` stands for."""
    return cast(Settings, OmegaConf.to_object(config))


def load_settings(path: Path) -> Settings:
    """Read the settings a run was saved with, by this version or an older one.

    Errors: `ConfigError` where the file does not fit the types.
    """
    try:
        return typed(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.load(path))))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        from conf.older import load_older  # it composes today's defaults

        with suppress(Exception):
            return load_older(path)
        raise ConfigError(f"{path} does not hold the settings of a run: {first_line(error)}") from None


def _written_out(word: str) -> str:
    """`stage=nl,multi,mono` selects three files of one group, a list to Hydra; `nodes` is the cluster's.

    `evaluation.tasks={...}` has names of its own, which Hydra takes only with `++`.
    """
    key, _, value = word.partition("=")
    if key == "stage" and not value.startswith("["):
        return f"stage=[{value}]"
    if key == "evaluation.tasks" or key.startswith("evaluation.tasks."):
        return f"++{word}"
    return f"cluster.nodes={value}" if key == "nodes" else word


def _refuse_unknown_words(overrides: list[str], folders: list[Path]) -> None:
    """Refuse words that are no settings, and choices of files that a group does not have."""
    for word in overrides:
        key, equals, value = word.partition("=")
        if key.startswith(("hydra.", "hydra/")) and key != SEARCH_PATH:
            raise ConfigError(f"'{key}' does nothing here: a run's folder is run.root/run.name")
        if not (key.strip("+~") and (equals or key.startswith("~"))):
            raise ConfigError(f"'{word}' is not a setting; settings are written key=value")
        group = key.lstrip("+~").partition("@")[0]
        if group in GROUPS and key.startswith("~"):
            there = ", ".join(choices_of(group, folders))
            raise ConfigError(f"'{word}' would leave a run without {group}; choose one: {group}= {there}")
        if group in GROUPS and value != "[]":
            _refuse_unknown_choice(group, value, folders)


def _refuse_unknown_choice(group: str, value: str, folders: list[Path]) -> None:
    """Refuse a file that the group does not have. `base`, what the others share, is no choice."""
    choices = choices_of(group, folders)
    chosen = [choice.strip() for choice in value.strip("[]").split(",")] if group == "stage" else [value]
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"{group}={value} names one twice; each stage runs once")
    for choice in chosen:
        if choice not in choices:
            raise ConfigError(
                f"{group}={choice} does not exist; there are {', '.join(choices)}"
                + ("; a run's own name is run.name" if group == "experiment" else "")
            )


def _count_auto(config: DictConfig, folders: list[Path]) -> None:
    """Write `layout.micro_batch_size: auto`, of a file or of the command line, as the number that stands for it."""
    asked = config.layout.micro_batch_size
    if asked == "auto":
        config.layout.micro_batch_size = AUTO
    elif type(asked) is not int:
        place = mention(f"micro_batch_size: {asked}", folders) if asked else ""
        raise ConfigError(f"{place}layout.micro_batch_size={asked} must be a whole number of sequences, or auto")


def _only_known(config: DictConfig) -> None:
    """Refuse keys that a `+` added and no type knows; merging onto the bare types finds them."""
    OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.create(OmegaConf.to_container(config)))
