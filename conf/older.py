"""Settings of runs that an older version saved: keys that are gone are left out, new ones have today's defaults."""

from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf

from conf.compose import compose_settings, typed
from conf.schema import Settings, plain

ALWAYS = {"model", "stages", "data", "optimizer", "layout", "run"}  # every version has saved these


def load_older(path: Path) -> Settings:
    """The settings in `path` as far as this version knows them. Errors: OmegaConf's where a value has another type."""
    saved = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(saved, dict) or not saved.keys() >= ALWAYS:
        raise ValueError("no settings, or cut off")
    known = OmegaConf.create(_known(Settings, saved, _defaults()))
    return typed(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Settings), known)))


@cache
def _defaults() -> dict[str, Any]:
    return cast(dict[str, Any], plain(compose_settings([])))


def _known(kind: Any, saved: dict[Any, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The values of the dataclass `kind`: those saved, else the defaults."""
    found, hints = {}, get_type_hints(kind)
    for each in fields(kind):
        hint, value, other = hints[each.name], saved.get(each.name), default.get(each.name)
        inner = get_args(hint)[-1] if get_args(hint) else None  # of dict[str, StageConfig]: StageConfig
        if each.name not in saved:
            found[each.name] = other
        elif is_dataclass(hint) and isinstance(value, dict):
            found[each.name] = _known(hint, value, other or {})
        elif is_dataclass(inner) and isinstance(value, dict):
            pattern: dict[str, Any] = next(iter((other or {}).values()), {})
            found[each.name] = {key: _known(inner, entry or {}, pattern) for key, entry in value.items()}
        else:
            found[each.name] = value
    return found
