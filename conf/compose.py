"""Composes command-line overrides into checked, typed settings."""

import difflib
import re
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from conf.check import check
from conf.errors import ConfigError
from conf.schedule import COUNTED, choose_schedules, count_steps
from conf.schema import Settings

FOLDER = Path(__file__).parent
GROUPS = {path.parent.name for path in FOLDER.glob("*/*.yaml")} - {"command"}  # conf/commands.py reads that one


def compose_config(overrides: list[str]) -> DictConfig:
    """Compose the groups in this folder with `overrides`, types checked.

    Errors: `ConfigError`, one line, for an unknown key or group, a wrong type, or an override that Hydra cannot parse.
    """
    ConfigStore.instance().store(name="schema", node=Settings)
    overrides = [_written_out(word) for word in overrides]
    for word in overrides:
        key, equals, value = word.partition("=")
        if key.startswith("hydra."):
            raise ConfigError(f"'{key}' does nothing here: a run's folder is run.root/run.name")
        if not (key and equals):
            raise ConfigError(f"'{word}' is not a setting; settings are written key=value")
        _only_known_choice(key.lstrip("+").partition("@")[0], value)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        try:
            config = compose("config", overrides)
            if any(word.startswith("+") for word in overrides):
                _only_known(config)
            choose_schedules(config, overrides)
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explain(error, overrides)) from None
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; write {missing[0]}=...")
    for name, stage in count_steps(typed(config)).stages.items():
        for key in COUNTED:
            config.stages[name][key] = getattr(stage, key)
    return config


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
    """Read the settings a run was saved with. Errors: `ConfigError` where the file does not fit the types."""
    try:
        return typed(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.load(path))))
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} does not hold the settings of a run: {_first_line(error)}") from None


def _written_out(word: str) -> str:
    """`stage=nl,multi,mono` selects three files of one group, a list to Hydra; `nodes` is the cluster's."""
    key, _, value = word.partition("=")
    if key == "stage" and not value.startswith("["):
        return f"stage=[{value}]"
    return f"cluster.nodes={value}" if key == "nodes" else word


def _only_known_choice(group: str, value: str) -> None:
    """Refuse a word that chooses a file its group does not have. `base`, what the others share, is no choice."""
    if group not in GROUPS or value == "[]":
        return
    choices = sorted(path.stem for path in (FOLDER / group).glob("*.yaml") if path.stem != "base")
    chosen = [choice.strip() for choice in value.strip("[]").split(",")] if group == "stage" else [value]
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"{group}={value} names one twice; each stage runs once")
    for choice in chosen:
        if choice not in choices:
            raise ConfigError(f"{group}={choice} does not exist; there are {', '.join(choices)}")


def _only_known(config: DictConfig) -> None:
    """Refuse keys that a `+` added and no type knows; merging onto the bare types finds them."""
    OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.create(OmegaConf.to_container(config)))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _explain(error: Exception, overrides: list[str]) -> str:
    """One line for what Hydra or OmegaConf said in several."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if f"'{key}'" in str(error) and "Could not override" in str(error):
            return _unknown(key)
    if isinstance(error, OverrideParseException):
        return (
            f"'{error.override}' cannot be read; a value with brackets, commas or quotes in it needs quotes around it"
        )
    full_key = getattr(cause, "full_key", None)
    line = _first_line(cast(Exception, cause))
    absent = re.search(r"Could not (?:find|load) 'layout/sizes/(\w+)_(\d+)'", str(cause))
    if absent:
        sizes = sorted(path.stem.rpartition("_")[0] for path in (FOLDER / "layout/sizes").glob(f"*_{absent[2]}.yaml"))
        return f"layout=a100_{absent[2]} has no values for model={absent[1]}; use model={', '.join(sizes)}"
    if isinstance(cause, OmegaConfBaseException) and "not in" in line and full_key:
        return _unknown(full_key)
    if full_key and full_key not in line:
        return f"{full_key}: {line}"
    return line


def _unknown(key: str) -> str:
    """Name the closest setting that exists."""
    with_defaults = compose("config", [])
    known = list(_keys(with_defaults, ""))
    if key in known and key.startswith("stages."):
        return f"'{key}' belongs to a stage that is not selected; add it to stage=..."
    if key in known:
        return f"'{key}' takes new names one by one, as +{key}.NAME=VALUE"
    close = difflib.get_close_matches(key, [*known, *sorted(GROUPS)], n=1, cutoff=0.6)
    return f"unknown setting '{key}'" + (
        f"; did you mean '{close[0]}'?" if close else "; see conf/ for those there are"
    )


def _keys(config: Any, prefix: str) -> Any:
    for name, value in config.items_ex(resolve=False):
        yield f"{prefix}{name}"
        if isinstance(value, DictConfig):
            yield from _keys(value, f"{prefix}{name}.")
