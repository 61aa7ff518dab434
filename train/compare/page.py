"""The comparison as one self-contained HTML file: interactive curves, or a static picture without JavaScript."""

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from train.compare.picture import curve_style, downsample, render, visible_points, y_label
from train.compare.table import (
    ComparisonRow,
    differing_settings,
    format_metric,
    format_setting,
    lineage_path,
    metric_groups,
    reading_notes,
)

TEMPLATE = Path(__file__).with_name("page.html")


def render_page(rows: Sequence[ComparisonRow], metrics: Sequence[str], target: float | None, smooth: int) -> str:
    """The page's HTML. metrics: choices for its vertical axis. target, smooth: as in `table.build_rows`."""
    static_picture = render([row.curve for row in rows], metrics[0], smooth, "svg")
    filled = {
        "title": f"Comparison of {len(rows)} run{'s' if len(rows) > 1 else ''}",
        "static_picture": base64.b64encode(static_picture).decode(),
        "tables": _tables(rows),
        "notes": "".join(f"<li>{escape(line)}</li>" for line in reading_notes(rows, target, smooth)),
        "data": _script_json(_curve_data(rows, metrics, smooth)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], TEMPLATE.read_text())


def _curve_data(rows: Sequence[ComparisonRow], metrics: Sequence[str], smooth: int) -> dict[str, Any]:
    """Data of the page's script: for each curve and metric, columns of unsmoothed numbers."""
    curves = []
    for index, row in enumerate(rows):
        colour, dashes, marker = curve_style(index)
        series = {}
        for metric in metrics:
            points, every = downsample(visible_points(row.curve, row.curve.points(metric)))
            names = ("tokens", "seconds", "flops", "value", "stage", "step")
            series[metric] = {name: [getattr(point, name) for point in points] for name in names} | {"every": every}
        stages = [
            stage.name if stage.run == row.curve.last_stage.run else f"{stage.run}/{stage.name}"
            for stage in row.curve.stages
        ]
        curves.append(
            {
                "label": row.curve.label,
                "stages": stages,
                "colour": colour,
                "dashes": " ".join(str(2 * length) for length in dashes),
                "marker": marker,
                "series": series,
            }
        )
    labels = {metric: y_label(metric) for metric in metrics}
    return {"metrics": labels, "smooth": smooth, "curves": curves}


def _script_json(value: Any) -> str:
    """JSON for a script element: `<` is escaped, so that no text can close the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _tables(rows: Sequence[ComparisonRow]) -> str:
    """The tables of the terminal as HTML, each with all of its columns."""
    about = [[row.curve.label, lineage_path(row.curve), row.curve.status()] for row in rows]
    found, keys = "", differing_settings(rows)
    for title, heads in metric_groups(rows).items():
        cells = [[row.curve.label, *(format_metric(key, row.metrics.get(key)) for key in heads)] for row in rows]
        found += _table(title, ["run", *heads.values()], cells, True)
    settings = [[row.curve.label, *(format_setting(row.settings.get(key)) for key in keys)] for row in rows]
    found += _table("Settings that differ", ["run", *keys], settings, False) if keys else ""
    return found + _table("Runs", ["run", "stages", "state"], about, False)


def _table(title: str, heads: list[str], cells: list[list[str]], numbers: bool) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    lines = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in line[1:])}</tr>'
        for line in cells
    )
    kind = ' class="numbers"' if numbers else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<h2>{title}</h2><div class="wide">{table}</div>'
