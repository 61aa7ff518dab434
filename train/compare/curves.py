"""Curves: the stages of one lineage joined, with tokens, time and FLOPs summed along it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median

from conf.errors import ConfigError
from conf.run_folder import is_stage_folder
from model.flops import flops_per_token, parameters
from train.compare.read import NoRecords, Record, StageRecords, read_folder
from train.summary import device_seconds

AXES = ("tokens", "seconds", "flops")


@dataclass
class Point:
    """A metric's value, and tokens, seconds and FLOPs since the lineage began. stage: index in `Curve.stages`."""

    stage: int
    step: int
    tokens: float
    seconds: float | None
    flops: float
    value: float


@dataclass
class Total:
    """A record with steps, tokens, seconds and FLOPs since the lineage began. stage: index in `Curve.stages`."""

    stage: int
    record: Record
    total: int
    tokens: float
    seconds: float | None
    flops: float


@dataclass
class Curve:
    """The stages of one lineage, oldest first.

    visible_from: index of the first stage that no other curve shows. order: place among the runs as they were named,
    which gives the curve its colour, however the rows are filtered and sorted later.
    """

    label: str
    stages: list[StageRecords]
    visible_from: int = 0
    notes: list[str] = field(default_factory=list)
    order: int = 0

    @property
    def last_stage(self) -> StageRecords:
        """The stage whose settings and scores represent the curve."""
        return self.stages[-1]

    def metrics(self) -> list[str]:
        """The recorded metrics that can be plotted: the loss, and bits per byte on each corpus."""
        keys = dict.fromkeys(key for stage in self.stages for row in stage.records for key in row)
        return [key for key in keys if key == "loss" or key.startswith("bits_per_byte/") or "/pass@" in key]

    def points(self, metric: str, smooth: int = 1) -> list[Point]:
        """The metric along the curve, each value the mean of up to `smooth` records of its stage that end there."""
        points: list[Point] = []
        values: list[float] = []
        for at in self.totals():
            value = at.record.get(metric)
            if value is None or not isfinite(value):
                continue
            if points and points[-1].stage != at.stage:
                values = []
            values.append(value)
            window = values[-smooth:]
            place = (at.stage, at.record["step"], at.tokens, at.seconds, at.flops)
            points.append(Point(*place, sum(window) / len(window)))
        return points

    def totals(self) -> list[Total]:
        """The records of all stages, with what was spent since the lineage began."""
        found: list[Total] = []
        steps, tokens, seconds, flops = 0, 0.0, 0.0, 0.0
        timed = all("seconds" in row for stage in self.stages for row in stage.records)
        for index, stage in enumerate(self.stages):
            for row in stage.records:
                spent = seconds + row["seconds"] if timed else None
                at = (steps + row["step"], tokens + row["tokens"], spent, flops + _flops(stage, row))
                found.append(Total(index, row, *at))
            end = stage.records[-1]
            steps += stage.steps[0]
            tokens += end["tokens"]
            flops += _flops(stage, end)
            seconds += end["seconds"] if timed else 0
        return found

    def status(self) -> str:
        """`finished`, or `still going` or `stopped` with the stage and step."""
        if self.last_stage.finished:
            return "finished"
        done, steps = self.last_stage.steps
        return (
            f"{'still going' if self.last_stage.recent else 'stopped'} ({self.last_stage.name}, step {done} of {steps})"
        )


def chain_stages(runs: Sequence[Sequence[StageRecords]], separate_stages: bool = False) -> list[Curve]:
    """Join the stages of each run into one curve per lineage.

    Parents outside `runs` are read from the folder that the lineage names. A stage that several curves share is
    plotted by one of them. separate_stages: each stage is its own curve, from 0 tokens.
    """
    known = {stage.key: stage for run in runs for stage in run}
    curves = []
    for run in runs:
        continued = set() if separate_stages else {stage.parent for stage in run}
        for stage in run:
            if stage.key not in continued:
                notes: list[str] = []
                lineage = [stage] if separate_stages else _lineage(stage, known, notes)
                curves.append(Curve(stage.run, lineage, notes=notes))
    for order, curve in enumerate(curves):
        curve.order = order
    _set_labels(curves)
    _hide_shared_stages(curves)
    for curve in curves:
        _add_notes(curve)
    return curves


def compute_metrics(curve: Curve, smooth: int, target: float | None) -> dict[str, float | None]:
    """A curve's metrics by name, the columns of the tables; None where a run did not record one.

    `tokens`, `seconds`, `flops` and `device_hours` cover the whole lineage, the others its last stage.
    `tokens_to_loss`: tokens along the lineage when the loss on the last stage's corpus first was at most `target`.
    """
    last, own = len(curve.stages) - 1, curve.last_stage.records
    everything = curve.points("loss", smooth)
    losses = [point for point in everything if point.stage == last]
    end = curve.points("tokens")[-1]
    result: dict[str, float | None] = {
        "loss": losses[-1].value if losses else None,
        "best_loss": min((point.value for point in losses), default=None),
        "tokens_to_loss": None,
    }
    corpora = [stage.settings.stages[stage.name].corpus for stage in curve.stages]
    if target is not None:
        same = (point.tokens for point in everything if corpora[point.stage] == corpora[-1] and point.value <= target)
        result["tokens_to_loss"] = next(same, None)
    for metric in curve.metrics():
        if metric != "loss":
            values = [point.value for point in curve.points(metric) if point.stage == last]
            final = curve.last_stage.scores.get(metric, values[-1] if values else None)
            result[metric] = final
            best = max if "/pass@" in metric else min
            result[f"best_{metric}"] = best([*values, *([] if final is None else [final])], default=None)
    return (
        result
        | curve.last_stage.scores
        | {
            "tokens": end.tokens,
            "flops": end.flops,
            "seconds": end.seconds,
            "device_hours": _device_hours(curve),
            "tokens_per_second": _aggregate(own, "tokens_per_second", median),
            "mfu": _aggregate(own, "mfu", median),
            "memory_bytes": _aggregate(own, "memory_bytes", max),
            "parameters": parameters(curve.last_stage.settings.model),
        }
    )


def common_loss(curves: Sequence[Curve], smooth: int) -> float | None:
    """The highest final loss, which every run has reached; None where no run records a loss."""
    ends = [point for curve in curves for point in curve.points("loss", smooth)[-1:]]
    return max((point.value for point in ends), default=None)


def main_metric(curves: Sequence[Curve]) -> str:
    """The metric of the picture: the loss, or the first of bits per byte that a run has.

    Errors: `ConfigError` where no run has either.
    """
    found = dict.fromkeys(metric for curve in curves for metric in curve.metrics())
    if not found:
        raise ConfigError("none of the runs recorded a loss or bits per byte; there is nothing to draw")
    return "loss" if "loss" in found else next(iter(found))


def _lineage(stage: StageRecords, known: dict[str, StageRecords], notes: list[str]) -> list[StageRecords]:
    """`stage` with its ancestors, oldest first."""
    lineage = [stage]
    while (parent := lineage[0].parent) is not None:
        found = known.get(parent) or _read_parent(parent)
        if found is None or found in lineage:
            notes.append(f"its parent {parent} cannot be read: its curve begins there at 0 tokens")
            break
        known[parent] = found
        lineage.insert(0, found)
    return lineage


def _read_parent(parent: str) -> StageRecords | None:
    with contextlib.suppress(NoRecords):
        return read_folder(Path(parent))[0] if is_stage_folder(Path(parent)) else None
    return None


def _set_labels(curves: list[Curve]) -> None:
    """Make the labels unique: the run's name, with the stage's name or else the folder where several runs share it."""
    longer_names: tuple[Callable[[Curve], str], ...] = (
        lambda curve: f"{curve.last_stage.run}/{curve.last_stage.name}",
        _folder,
    )
    for name in longer_names:
        labels = [curve.label for curve in curves]
        for curve in curves:
            if labels.count(curve.label) > 1:
                curve.label = name(curve)
    for curve in curves:  # names come from files: remove control characters, which could move the cursor
        curve.label = "".join(char if char.isprintable() else "\ufffd" for char in curve.label)


def _folder(curve: Curve) -> str:
    return curve.last_stage.key


def _hide_shared_stages(curves: list[Curve]) -> None:
    """Set `visible_from` so that each stage is shown by one curve: the shortest that has it, the first of equals."""
    shown: set[str] = set()
    for curve in sorted(curves, key=lambda curve: len(curve.stages)):
        while curve.visible_from < len(curve.stages) - 1 and curve.stages[curve.visible_from].key in shown:
            curve.visible_from += 1
        shown |= {stage.key for stage in curve.stages}


def _add_notes(curve: Curve) -> None:
    rows = [row for stage in curve.stages for row in stage.records]
    if not curve.status().startswith("finished"):
        curve.notes.append(curve.status())
    if not all("seconds" in row for row in rows):
        curve.notes.append("its records hold no time (an older version wrote them): no time axis, no device-hours")
    broken = sum("loss" in row and (row["loss"] is None or not isfinite(row["loss"])) for row in rows)
    if broken:
        curve.notes.append(f"{broken} records have no finite loss and are left out")


def _flops(stage: StageRecords, row: Record) -> float:
    """FLOPs of the stage up to this record; computed from the tokens for records of older versions."""
    settings = stage.settings
    return float(row.get("flops") or row["tokens"] * flops_per_token(settings.model, settings.finetune))


def _device_hours(curve: Curve) -> float | None:
    """Along the lineage; None where a record has no time or devices, as earlier versions wrote."""
    if any("seconds" not in row or "devices" not in row for stage in curve.stages for row in stage.records):
        return None
    return sum(device_seconds(stage.records) for stage in curve.stages) / 3600


def _aggregate(rows: list[Record], key: str, combine: Callable[[list[float]], float]) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return combine(values) if values else None
