"""Curves: the stages of one lineage as one course of training, with its tokens, time and FLOPs added up."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median

from conf.errors import ConfigError
from model.flops import flops_per_token, parameters
from train.compare.read import NoRecords, Record, StageRecords, read_folder

AXES = ("tokens", "seconds", "flops")


@dataclass
class Point:
    """One record's value and what training had cost by then, from the lineage's first step; `stage` is its index."""

    stage: int
    step: int
    tokens: float
    seconds: float | None
    flops: float
    value: float


@dataclass
class Curve:
    """The stages of one lineage, oldest first. `drawn_from`: stages before it are on another curve already."""

    label: str
    stages: list[StageRecords]
    drawn_from: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def last(self) -> StageRecords:
        """The stage the curve ends in: its settings and scores are the curve's."""
        return self.stages[-1]

    def metrics(self) -> list[str]:
        """What is recorded along the curve: the loss, and bits per byte on each corpus."""
        keys = dict.fromkeys(key for stage in self.stages for row in stage.records for key in row)
        return [key for key in keys if key == "loss" or key.startswith("bits_per_byte/")]

    def points(self, metric: str, smooth: int = 1) -> list[Point]:
        """The metric's values, each the mean of up to `smooth` records of its stage that end there."""
        points: list[Point] = []
        tokens, seconds, flops = 0.0, 0.0, 0.0
        timed = all("seconds" in row for stage in self.stages for row in stage.records)
        for index, stage in enumerate(self.stages):
            values: list[float] = []
            for row in stage.records:
                value = row.get(metric)
                if value is None or not isfinite(value):
                    continue
                values.append(value)
                window = values[-smooth:]
                spent = seconds + row["seconds"] if timed else None
                at = (tokens + row["tokens"], spent, flops + _flops(stage, row))
                points.append(Point(index, row["step"], *at, sum(window) / len(window)))
            end = stage.records[-1]
            tokens += end["tokens"]
            flops += _flops(stage, end)
            seconds += end["seconds"] if timed else 0
        return points

    def state(self) -> str:
        """`finished`, or how far the run has come."""
        if self.last.finished:
            return "finished"
        done, steps = self.last.steps
        return f"{'still going' if self.last.recent else 'stopped'} ({self.last.name}, step {done} of {steps})"


def chain(runs: Sequence[Sequence[StageRecords]], alone: bool = False) -> list[Curve]:
    """Join the stages of each run into a curve along their lineage; where a run holds several lineages, into several.

    Parents that were not asked for are read from where the lineage says; a stage that several curves share is drawn
    once. alone: each stage is a curve of its own.
    """
    known = {stage.key: stage for run in runs for stage in run}
    curves = []
    for run in runs:
        continued = set() if alone else {stage.parent for stage in run}
        for stage in run:
            if stage.key not in continued:
                notes: list[str] = []
                line = [stage] if alone else _line(stage, known, notes)
                curves.append(Curve(stage.run, line, notes=notes))
    _label(curves)
    _share(curves)
    for curve in curves:
        _note(curve)
    return curves


def measure(curve: Curve, smooth: int, target: float | None) -> dict[str, float | None]:
    """A curve's figures by name: the table's columns, None where a run has no such record.

    `tokens`, `seconds`, `flops` and `device_hours` are of the whole lineage, all else of its last stage.
    `tokens_to_loss`: tokens along the lineage when the loss first was at most `target`, on the last stage's corpus.
    """
    last, own = len(curve.stages) - 1, curve.last.records
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
            final = curve.last.scores.get(metric, values[-1] if values else None)
            result[metric] = final
            result[f"best_{metric}"] = min([*values, *([] if final is None else [final])], default=None)
    return (
        result
        | curve.last.scores
        | {
            "tokens": end.tokens,
            "flops": end.flops,
            "seconds": end.seconds,
            "device_hours": _device_hours(curve),
            "tokens_per_second": _over(own, "tokens_per_second", median),
            "mfu": _over(own, "mfu", median),
            "memory_bytes": _over(own, "memory_bytes", max),
            "parameters": parameters(curve.last.settings.model),
        }
    )


def common_loss(curves: Sequence[Curve], smooth: int) -> float | None:
    """The highest of the final losses, which every run has reached by its end; None where no run records a loss."""
    ends = [point for curve in curves for point in curve.points("loss", smooth)[-1:]]
    return max((point.value for point in ends), default=None)


def common_metrics(curves: Sequence[Curve]) -> list[str]:
    """The metrics that every curve has. Errors: `ConfigError` where there is none."""
    common = [key for key in curves[0].metrics() if all(key in curve.metrics() for curve in curves)]
    if common:
        return common
    found = "; ".join(f"{curve.label} has {', '.join(curve.metrics()) or 'none'}" for curve in curves[:3])
    raise ConfigError(f"the runs share no metric: {found}; compare runs that record the same one")


def _line(stage: StageRecords, known: dict[str, StageRecords], notes: list[str]) -> list[StageRecords]:
    """`stage` with its ancestors, oldest first."""
    line = [stage]
    while (parent := line[0].parent) is not None:
        found = known.get(parent) or _read_parent(parent)
        if found is None or found in line:
            notes.append(f"its parent {parent} cannot be read: its curve begins there at 0 tokens")
            break
        known[parent] = found
        line.insert(0, found)
    return line


def _read_parent(parent: str) -> StageRecords | None:
    if not (Path(parent).parents[1] / "config.yaml").is_file():
        return None
    with contextlib.suppress(NoRecords):
        return read_folder(Path(parent))[0]
    return None


def _label(curves: list[Curve]) -> None:
    """Give each curve a name of its own: the run's, with the stage or the folder where that is not enough."""
    wider: tuple[Callable[[Curve], str], ...] = (lambda curve: f"{curve.last.run}/{curve.last.name}", _place)
    for name in wider:
        labels = [curve.label for curve in curves]
        for curve in curves:
            if labels.count(curve.label) > 1:
                curve.label = name(curve)
    for curve in curves:  # a name comes from a file: nothing in it may move the terminal's cursor
        curve.label = "".join(char if char.isprintable() else "\ufffd" for char in curve.label)


def _place(curve: Curve) -> str:
    return curve.last.key


def _share(curves: list[Curve]) -> None:
    """Let each stage be drawn by one curve: the one it is nearest the end of, and there the first asked for."""
    drawn: set[str] = set()
    for curve in sorted(curves, key=lambda curve: len(curve.stages)):
        while curve.drawn_from < len(curve.stages) - 1 and curve.stages[curve.drawn_from].key in drawn:
            curve.drawn_from += 1
        drawn |= {stage.key for stage in curve.stages}


def _note(curve: Curve) -> None:
    rows = [row for stage in curve.stages for row in stage.records]
    if not curve.state().startswith("finished"):
        curve.notes.append(curve.state())
    if not all("seconds" in row for row in rows):
        curve.notes.append("its records hold no time (an older version wrote them): no time axis, no device-hours")
    broken = sum("loss" in row and (row["loss"] is None or not isfinite(row["loss"])) for row in rows)
    if broken:
        curve.notes.append(f"{broken} records have no finite loss and are left out")


def _flops(stage: StageRecords, row: Record) -> float:
    """FLOPs of the stage up to this record; older records have only the tokens."""
    return float(row.get("flops") or row["tokens"] * flops_per_token(stage.settings.model))


def _device_hours(curve: Curve) -> float | None:
    """Time x devices along the lineage; a stage may have gone on with another number of devices."""
    total = 0.0
    for stage in curve.stages:
        before = 0.0
        for row in stage.records:
            if "seconds" not in row or "devices" not in row:
                return None
            total += (row["seconds"] - before) * row["devices"]
            before = row["seconds"]
    return total / 3600


def _over(rows: list[Record], key: str, combine: Callable[[list[float]], float]) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return combine(values) if values else None
