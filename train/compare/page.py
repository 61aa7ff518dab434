"""The comparison as one self-contained HTML file: a grid of panels, the list of runs and the table, without a network.

Its script and style are in static/, with uPlot (MIT), which draws axes, cursor and selection.
"""

import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from train.compare.colours import curve_colour
from train.compare.curves import Curve
from train.compare.events import EVENTS
from train.compare.read import Record
from train.compare.seeds import SeedGroup, seed_groups, with_means
from train.compare.table import (
    ComparisonRow,
    differing_settings,
    format_setting,
    lineage_path,
    metric_groups,
    reading_notes,
)

STATIC = Path(__file__).with_name("static")
MAX_RECORDS = 120_000  # on the page; of each run at least MIN_RECORDS, at most MAX_RECORDS_OF_RUN
MIN_RECORDS, MAX_RECORDS_OF_RUN = 200, 4000
AXES = ("step", "tokens", "seconds", "flops")
NOT_PLOTTED = {*AXES, "stage", "devices", "skipped"}
# Panel title, section, factor from the recorded to the shown unit.
PANELS = {
    "loss": ("loss (nats per token)", "Training", 1),
    "learning_rate": ("learning rate", "Training", 1),
    "gradient_norm": ("gradient norm", "Training", 1),
    EVENTS: ("skipped steps, spikes, rewinds", "Training", 1),
    "tokens_per_second": ("tokens/s", "Speed and memory", 1),
    "mfu": ("MFU", "Speed and memory", 100),
    "memory_bytes": ("memory of the fullest device (GiB)", "Speed and memory", 2**-30),
}
SECTIONS = ("Training", "Validation", "Pass rates", "Speed and memory", "Other")


def render_page(rows: Sequence[ComparisonRow], target: float | None, smooth: int, refresh: float | None = None) -> str:
    """The page's HTML. target, smooth: as in `table.build_rows`. refresh: seconds after which it loads itself again."""
    groups = seed_groups(rows)
    filled = {
        "title": f"Comparison of {len(rows)} run{'s' if len(rows) > 1 else ''}",
        "table": _table(rows, groups),
        "notes": "".join(f"<li>{escape(line)}</li>" for line in reading_notes(rows, target, smooth)),
        "data": _script_json(_page_data(rows, groups, smooth) | {"refresh": refresh}),
        "style": (STATIC / "page.css").read_text(),
        "script": "".join((STATIC / name).read_text() for name in ("lines.js", "panels.js", "page.js")),
        "plot_style": (STATIC / "uPlot.min.css").read_text(),
        "plot_library": (STATIC / "uPlot.iife.min.js").read_text() + f"/* {(STATIC / 'uPlot.LICENSE').read_text()} */",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], (STATIC / "page.html").read_text())


def _page_data(rows: Sequence[ComparisonRow], groups: Sequence[SeedGroup], smooth: int) -> dict[str, Any]:
    """Data of the page's script: the panels, and for each run its records as columns of unsmoothed numbers."""
    limit = min(max(MAX_RECORDS // len(rows), MIN_RECORDS), MAX_RECORDS_OF_RUN)
    keys = differing_settings(rows)
    member = {id(row): index for index, group in enumerate(groups) for row in group.rows}
    colours = run_colours(rows)
    curves: list[dict[str, Any]] = []
    for row in rows:
        settings = [f"{key}={format_setting(row.settings.get(key))}" for key in keys]
        short = [re.sub(r"^.*\.(?=[^.=]+=)", "", setting) for setting in settings]
        curves.append(
            {
                "label": row.curve.label,
                "colour": colours[id(row)],
                "group": member.get(id(row)),
                "state": row.curve.status(),
                "stages": lineage_path(row.curve).split(" > "),
                "settings": ", ".join(short),
                "search": " ".join([row.curve.label, row.curve.status(), *settings]).lower(),
                "tracks": _tracks(row.curve, limit),
            }
        )
    recorded = dict.fromkeys(key for curve in curves for track in curve["tracks"] for key in track["values"])
    return {
        "smooth": round((smooth - 1) / (smooth + 1), 2),
        "sections": list(sections(recorded)),
        "groups": [
            {"label": group.label, "colour": colours[id(min(group.rows, key=lambda row: row.curve.order))]}
            for group in groups
        ],
        "curves": curves,
    }


def run_colours(rows: Sequence[ComparisonRow]) -> dict[int, str]:
    """The colour of each row, by its id: in the order in which the runs were named, whatever the tables' order.

    The first run of a group has the group's colour, and other seeds come last, so that neighbours on the page differ.
    """
    later = {id(row) for group in seed_groups(rows) for row in sorted(group.rows, key=lambda row: row.curve.order)[1:]}
    order = sorted(rows, key=lambda row: (id(row) in later, row.curve.order))
    return {id(row): curve_colour(index) for index, row in enumerate(order)}


def sections(metrics: Sequence[str] | dict[str, None]) -> Iterator[dict[str, Any]]:
    """The panels by section, in the order of `PANELS`, then of their names. Rarely needed ones begin closed.

    The smoothing is for the noise of single steps: schedules and evaluations are drawn as they are.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS}
    plotted = (key for key in metrics if key not in NOT_PLOTTED)
    for key in sorted(plotted, key=lambda key: (list(PANELS).index(key) if key in PANELS else len(PANELS), key)):
        title, section, scale = PANELS.get(key) or (_title(key), _section(key), 1)
        noisy = section not in ("Validation", "Pass rates") and key not in ("learning_rate", EVENTS)
        found[section].append({"key": key, "title": title, "scale": scale, "percent": key == "mfu", "noisy": noisy})
    for name, panels in found.items():
        if panels:
            yield {"title": name, "open": name != "Other", "metrics": panels}


def _section(metric: str) -> str:
    if metric.startswith("bits_per_byte/"):
        return "Validation"
    return "Pass rates" if "pass@" in metric else "Other"


def _title(metric: str) -> str:
    corpus = metric.removeprefix("bits_per_byte/")
    return f"bits per byte: {corpus}" if corpus != metric else metric.replace("_", " ")


def _tracks(curve: Curve, limit: int) -> list[dict[str, Any]]:
    """The curve's records as columns, training steps and evaluations apart: they are recorded at different steps.

    Stages that another curve shows are left out, except their last record, and so are metrics that only these recorded:
    their one point would hide the other's. limit: of the records of a kind.
    """
    found = []
    for kind in (True, False):
        points = [point for point in curve.totals() if ("loss" in point.record) is kind]
        first = next((i for i, point in enumerate(points) if point.stage >= curve.visible_from), len(points))
        points = points[max(first - 1, 0) :]
        kept = set(_thin([point.record for point in points], [point.stage for point in points], limit))
        points = [point for index, point in enumerate(points) if index in kept]
        keys = dict.fromkeys(key for point in points for key in point.record if key not in NOT_PLOTTED)
        values = {key: [_short(point.record.get(key)) for point in points] for key in keys}
        own = [index for index, point in enumerate(points) if point.stage >= curve.visible_from]
        values = {key: column for key, column in values.items() if any(column[index] is not None for index in own)}
        if values:
            columns = {name: [_short(getattr(point, name)) for point in points] for name in ("seconds", "flops")}
            columns |= {name: [getattr(point, name) for point in points] for name in ("stage", "tokens", "total")}
            found.append(columns | {"step": [point.record["step"] for point in points], "values": values})
    return found


def _thin(records: Sequence[Record], stages: Sequence[int], limit: int) -> list[int]:
    """Indices of about `limit` records: of each stretch the ones of least and greatest loss, so that spikes stay.

    The first and last record of each stage are among them.
    """
    if len(records) <= limit:
        return list(range(len(records)))
    stretch, kept = -(-2 * len(records) // limit), {0, len(records) - 1}
    for start in range(0, len(records), stretch):
        inside = range(start, min(start + stretch, len(records)))
        losses = [index for index in inside if records[index].get("loss") is not None] or [start]
        loss = {index: records[index].get("loss") or 0.0 for index in losses}
        kept |= {min(losses, key=loss.__getitem__), max(losses, key=loss.__getitem__)}
    for index in range(1, len(records)):
        if stages[index] != stages[index - 1]:
            kept |= {index - 1, index}
    return sorted(kept)


def _short(value: Any) -> float | None:
    """`value` with six digits, None where it is missing or not finite (JSON has no such number)."""
    if value is None or value != value or abs(value) == float("inf"):
        return None
    return float(f"{value:.6g}")


def _script_json(value: Any) -> str:
    """JSON for a script element: `<` is escaped, so that no text can close the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _table(rows: Sequence[ComparisonRow], groups: Sequence[SeedGroup]) -> str:
    """The runs with the settings that differ first, then all results; the mean over seeds below its runs."""
    keys = differing_settings(rows)
    metrics = {key: (title, head) for title, heads in metric_groups(rows).items() for key, head in heads.items()}
    spans = [("", 1), *([("Settings that differ", len(keys))] if keys else [])]
    spans += [(title, len(heads)) for title, heads in metric_groups(rows).items()] + [("Run", 2)]
    above = "".join(f'<th colspan="{count}">{escape(title)}</th>' for title, count in spans)
    heads = ["run", *keys, *(head for _, head in metrics.values()), "stages", "state"]
    words = {0, *range(1, len(keys) + 1), len(heads) - 2, len(heads) - 1}
    head = "".join(f'<th scope="col"{" class=word" * (i in words)}>{escape(name)}</th>' for i, name in enumerate(heads))
    number = {id(row): index for index, row in enumerate(rows)}
    lines = "".join(_line(row, keys, list(metrics), number) for row in with_means(rows, groups))
    return f'<table><thead><tr class="of">{above}</tr><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _line(row: ComparisonRow, keys: Sequence[str], metrics: Sequence[str], number: dict[int, int]) -> str:
    members = row.members or (row,)
    cells = [f'<td class="word">{escape(row.setting(key))}</td>' for key in keys]
    for key in metrics:
        value = row.metrics.get(key)
        exact = f' data-value="{value:.9g}"' if value is not None else ""
        cells.append(f"<td{exact}>{escape(row.metric(key))}</td>")
    cells += [f'<td class="word">{escape(text)}</td>' for text in (lineage_path(row.curve), row.state)]
    kind = ' class="mean"' if row.members else ""
    runs = " ".join(str(number[id(member)]) for member in members)
    return f'<tr{kind} data-runs="{runs}"><th scope="row">{escape(row.label)}</th>{"".join(cells)}</tr>'
