"""`-m`: one run for each value of `key=a,b`, as Hydra's multirun does."""

import re

from conf.compose import compose_settings
from conf.sweep import combinations

NOT_SWEPT = ("stage",)  # `stage=nl,multi` names the stages of every run


def sweep_points(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of the sweep, in order, each with its own run.name. Errors: as `combinations`."""
    fixed = [word for word in overrides if word.partition("=")[0] in NOT_SWEPT]
    found = []
    for words, values in combinations([word for word in overrides if word not in fixed]):
        point = [*fixed, *words]
        if "run.name" not in values:
            marks = [f"{key.rpartition('.')[2]}_{value}" for key, value in values.items()]
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([compose_settings(point).run.name, *marks]))
            point.append(f"run.name={name}")
        found.append(point)
    return found
