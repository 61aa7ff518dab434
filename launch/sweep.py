"""`-m`: one run for each value of `key=a,b`, as Hydra's multirun does."""

import itertools
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from conf.compose import compose_settings
from conf.errors import ConfigError

NOT_SWEPT = ("stage",)  # `stage=nl,multi` names the stages of every run


def sweep_points(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of the sweep, in order, each with its own run.name.

    Errors: `ConfigError` where no setting has several values, or Hydra cannot parse an override.
    """
    fixed = [word for word in overrides if word.partition("=")[0] in NOT_SWEPT]
    rest = [word for word in overrides if word not in fixed]
    try:
        parsed = OverridesParser.create().parse_overrides(rest)
        choices = [
            list(override.sweep_string_iterator()) if override.is_sweep_override() else [None] for override in parsed
        ]
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    varied = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    if not varied:
        raise ConfigError("-m makes one run of each value, and no setting has several; write key=a,b")
    found = []
    for values in itertools.product(*choices):
        chosen = [
            word if value is None else f"{override.get_key_element()}={value}"
            for word, override, value in zip(rest, parsed, values, strict=True)
        ]
        point = [*fixed, *chosen]
        if "run.name" not in varied:
            marks = [
                f"{override.get_key_element().rpartition('.')[2]}_{value}"
                for override, value in zip(parsed, values, strict=True)
                if value is not None
            ]
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([compose_settings(point).run.name, *marks]))
            point.append(f"run.name={name}")
        found.append(point)
    return found
