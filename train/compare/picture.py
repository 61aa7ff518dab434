"""The comparison as a picture: loss against tokens, time and FLOPs, validation against tokens, and a legend."""

import io
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from train.compare.colours import COLOURS
from train.compare.curves import AXES, Curve, Point
from train.compare.units import format_si, time_unit

# With 4 dash patterns the 6 colours give 24 distinct styles.
DASHES = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2))  # lengths of dash and gap, in line widths
MARKERS = "os^Dv<>P"
PANEL_INCHES = 4.5  # height
MAX_POINTS = 4000  # plotted of each curve
LABELS = {"tokens": "tokens", "seconds": "training time", "flops": "model FLOPs"}


def curve_style(index: int) -> tuple[str, tuple[float, ...], str]:
    """Colour, dashes and marker of the curve at `index`."""
    return COLOURS[index % 6], DASHES[index // 6 % 4], MARKERS[(index + index // 6) % 8]


def visible_points(curve: Curve, points: Sequence[Point]) -> list[Point]:
    """The points plotted for this curve: another curve shows those before `visible_from`; the last of them joins this.

    Without points of its own it has none: it would hide the other's.
    """
    first = next((index for index, point in enumerate(points) if point.stage >= curve.visible_from), None)
    return [] if first is None else list(points[max(first - 1, 0) :])


def downsample(points: list[Point]) -> tuple[list[Point], int]:
    """(every n-th point and the last of each stage, n), with n such that about `MAX_POINTS` remain at most."""
    every, ends = len(points) // MAX_POINTS + 1, {*stage_boundaries(points), len(points) - 1}
    return [point for index, point in enumerate(points) if index % every == 0 or index in ends], every


def stage_boundaries(points: Sequence[Point]) -> list[int]:
    """Indices of the last point of each stage but the last."""
    return [index for index, (one, other) in enumerate(pairwise(points)) if one.stage < other.stage]


def render(curves: Sequence[Curve], metric: str, smooth: int, file_format: str) -> bytes:
    """The picture as the bytes of a file. metric: `loss` or `bits_per_byte/CORPUS`. file_format: `png` or `svg`."""
    out = io.BytesIO()
    build_figure(curves, metric, smooth).savefig(out, format=file_format, dpi=130)
    return out.getvalue()


def build_figure(curves: Sequence[Curve], metric: str, smooth: int) -> Figure:
    """The matplotlib figure: three panels, one more for each other corpus of validation that a run was scored on, and a
    legend; taller for many or long names of runs. Scores are drawn as they are, as on the page.
    """
    points_of_curves = [curve.points(metric, smooth) for curve in curves]
    recorded = dict.fromkeys(name for curve in curves for name in curve.metrics())
    validation = [name for name in recorded if name.startswith("bits_per_byte/") and name != metric]
    panels = [(axis, metric, points_of_curves) for axis in AXES]
    panels += [("tokens", name, [curve.points(name) for curve in curves]) for name in validation]
    small = len(curves) > 6
    size, wrapped = 7.5 if small else 10, [_wrap(curve.label, 75 if small else 56) for curve in curves]
    legend_inches = size * (1.2 * sum(map(len, wrapped)) + 0.5 * len(curves) + 3) / 72
    full_rows, beside = divmod(len(panels), 2)  # the legend is beside the last panel, or below all
    heights = [*[PANEL_INCHES] * full_rows, max(PANEL_INCHES * beside, legend_inches + 0.8)]
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    for index, (axis, name, points_of_panel) in enumerate(panels):
        axes = figure.add_subplot(grid[index // 2, index % 2])
        _plot(axes, axis, curves, points_of_panel)
        axes.set_ylabel(y_label(name))
    _legend(figure.add_subplot(grid[-1, beside]), wrapped, points_of_curves, size)
    averaged = f", each point the mean of {smooth} records" if smooth > 1 else ""
    title = y_label(metric).partition(" (")[0].capitalize()
    figure.suptitle(f"{title}{averaged}{'; validation' if validation else ''}", x=0.01, ha="left", weight="bold")
    return figure


def y_label(metric: str) -> str:
    """Axis label of a metric, with its unit."""
    corpus = metric.partition("/")[2]
    return f"validation on {corpus} (bits per byte)" if corpus else "training loss (nats per token)"


def _plot(axes: Any, axis: str, curves: Sequence[Curve], points_of_curves: Sequence[list[Point]]) -> None:
    """One panel. A hollow diamond marks where the next stage of a lineage begins."""
    longest = max((getattr(point, axis) or 0 for points in points_of_curves for point in points), default=0)
    unit, name = time_unit(longest) if axis == "seconds" else (1, "")
    starts: list[tuple[float, str]] = []  # (x, stage that begins there)
    plotted = 0
    for index, (curve, points) in enumerate(zip(curves, points_of_curves, strict=True)):
        shown, _ = downsample(visible_points(curve, points))
        if not shown or getattr(shown[0], axis) is None:
            continue
        plotted += 1
        colour, dashes, marker = curve_style(index)
        x = [getattr(point, axis) / unit for point in shown]
        y = [point.value for point in shown]
        (line,) = axes.plot(x, y, color=colour, linewidth=1.4, marker=marker, markersize=4.5)
        line.set_dashes(dashes) if dashes else None
        line.set_zorder(4 if len(x) == 1 else 2)  # one that is alone is seen within the diamond of a run that went on
        line.set_markevery((0.02 + 0.01 * (index % 12), 0.16) if len(x) > 12 else 1)
        ends = stage_boundaries(shown)
        starts += [(x[i], curve.stages[shown[i + 1].stage].name) for i in ends]
        axes.plot(
            [x[i] for i in ends],
            [y[i] for i in ends],
            linestyle="none",
            marker="D",
            markersize=8,
            markerfacecolor="white",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            zorder=3,
        )
    axes.set_xlabel(LABELS[axis] + (f" ({name})" if name else ""))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_si(value)))
    axes.locator_params(axis="x", nbins=6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    for place, names in _merge_labels(starts, 0.1 * longest / unit):
        axes.text(place, 1.01, f" {names}", transform=axes.get_xaxis_transform(), color="#555555", fontsize=9)
        axes.axvline(place, color="#999999", linewidth=0.8, linestyle=":")
    if plotted < len(curves):
        absent = f"{len(curves) - plotted} of {len(curves)} runs did not record it"
        axes.text(0.98, 0.95, absent, transform=axes.transAxes, ha="right", color="#555555")


def _merge_labels(starts: list[tuple[float, str]], room: float) -> list[tuple[float, str]]:
    """Labels (x, names), with those closer than `room` merged into one."""
    joined: list[tuple[float, str]] = []
    for place, name in sorted(starts):
        if not joined or place - joined[-1][0] > room:
            joined.append((place, name))
        elif name not in joined[-1][1].split(", "):
            joined[-1] = (joined[-1][0], f"{joined[-1][1]}, {name}")
    return joined


def _wrap(name: str, width: int) -> list[str]:
    """A name on at most two lines; a longer one is cut in the middle, since names of runs differ at the end."""
    if len(name) > 2 * width - 10:
        name = f"{name[: width - 10]} \u2026 {name[-width + 10 :]}"
    return textwrap.wrap(name, width)


def _legend(axes: Any, wrapped: Sequence[list[str]], points_of_curves: Sequence[list[Point]], size: float) -> None:
    """The legend: each run's line style, last value and name."""
    axes.axis("off")
    handles, texts = [], []
    for index, (lines, points) in enumerate(zip(wrapped, points_of_curves, strict=True)):
        colour, dashes, marker = curve_style(index)
        line = Line2D([], [], color=colour, linewidth=1.8, marker=marker, markersize=5)
        line.set_dashes(dashes) if dashes else None
        handles.append(line)
        last = f"{points[-1].value:.3f}" if points else "none"
        texts.append((f"{last}  " + "\n            ".join(lines)).replace("$", r"\$"))  # not the start of a formula
    if any(stage_boundaries(points) for points in points_of_curves):
        handles.append(Line2D([], [], linestyle="none", marker="D", markersize=7, color="#555555", markerfacecolor="w"))
        texts.append("the next stage begins: its name is above")
    legend = axes.legend(
        handles, texts, loc="upper left", frameon=False, fontsize=size, handlelength=4, borderaxespad=0
    )
    legend.set_title("last value, run", {"size": size})
    legend.set_alignment("left")
    legend.set_in_layout(False)
