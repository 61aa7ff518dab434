"""Runs that differ in nothing but the seed: their mean and standard deviation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import mean, stdev
from typing import Any

from conf.schema import plain
from train.compare.table import IGNORED_SETTINGS, ComparisonRow, flat_settings

SEED_IN_NAME = re.compile(r"[-_. ]?seed[-_=]?\d+", re.IGNORECASE)
UNFINISHED_NAME = re.compile(r"[-_. ]*(seed)?[-_.= ]*\d*$", re.IGNORECASE)


@dataclass
class SeedGroup:
    """Runs of the same settings and stages with different seeds, two or more."""

    label: str
    rows: list[ComparisonRow]

    def mean(self) -> ComparisonRow:
        """The group as a row of the tables: mean and sample standard deviation over the runs that have the metric."""
        first, means, spreads = self.rows[0], {}, {}
        for key in dict.fromkeys(key for row in self.rows for key in row.metrics):
            values = [value for row in self.rows if (value := row.metrics.get(key)) is not None]
            means[key] = mean(values) if values else None
            spreads[key] = stdev(values) if len(values) > 1 else None
        settings = {key: value for key, value in first.settings.items() if key != "run.seed"}
        return ComparisonRow(first.curve, means, settings, spreads, self.label, tuple(self.rows))


def seed_groups(rows: Sequence[ComparisonRow]) -> list[SeedGroup]:
    """The groups among `rows`, in the order of their first runs. A seed that was run twice makes no group."""
    found: dict[Any, list[ComparisonRow]] = {}
    for row in rows:
        found.setdefault(_key(row), []).append(row)
    return [
        SeedGroup(_label([row.curve.label for row in members]), members)
        for members in found.values()
        if len({row.settings.get("run.seed") for row in members}) > 1
    ]


def with_means(rows: Sequence[ComparisonRow], groups: Sequence[SeedGroup]) -> list[ComparisonRow]:
    """`rows` with the runs of a group beside each other, at the place of the first, and its mean below them."""
    group_of = {id(row): group for group in groups for row in group.rows}
    found: list[ComparisonRow] = []
    done: set[int] = set()
    for row in rows:
        group = group_of.get(id(row))
        if group is None:
            found.append(row)
        elif id(group) not in done:
            done.add(id(group))
            found += [*group.rows, group.mean()]
    return found


def _key(row: ComparisonRow) -> Any:
    """What runs of one group share: every stage of the lineage with its settings, but for the seed, and the parent of
    all but the first, which is the stage before it."""
    stages = []
    for number, stage in enumerate(row.curve.stages):
        begun = f"stages.{stage.name}.init_from" if number == 0 else None
        settings = flat_settings(plain(stage.settings))
        kept = {
            key: str(value)
            for key, value in settings.items()
            if not IGNORED_SETTINGS.match(key)
            and key != "run.seed"
            and (key == begun or not key.endswith(".init_from"))
        }
        stages.append((stage.name, tuple(sorted(kept.items()))))
    return tuple(stages)


def _label(labels: list[str]) -> str:
    """What the runs' names share: without the seed, or their common beginning."""
    without = {SEED_IN_NAME.sub("", label) for label in labels}
    name = without.pop() if len(without) == 1 else UNFINISHED_NAME.sub("", _common_beginning(labels))
    return name or f"{labels[0]} and its seeds"


def _common_beginning(labels: list[str]) -> str:
    same = takewhile(lambda signs: len(set(signs)) == 1, zip(*labels, strict=False))
    return "".join(signs[0] for signs in same)
