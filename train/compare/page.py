"""The comparison as one self-contained HTML page: no network, no other file; without JavaScript a still picture."""

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from train.compare.picture import draw, style, thin, visible, y_label
from train.compare.table import ComparisonRow, differing, explain, figure, groups, path_of, text

TEMPLATE = Path(__file__).with_name("page.html")


def page(rows: Sequence[ComparisonRow], metrics: Sequence[str], target: float | None, smooth: int) -> str:
    """The page as text. metrics: what its vertical axis can show. target, smooth: as in the tables."""
    still = draw([row.curve for row in rows], metrics[0], smooth, "svg")
    filled = {
        "title": f"Comparison of {len(rows)} run{'s' if len(rows) > 1 else ''}",
        "still": base64.b64encode(still).decode(),
        "tables": _tables(rows),
        "notes": "".join(f"<li>{escape(line)}</li>" for line in explain(rows, target, smooth)),
        "data": _script(_data(rows, metrics, smooth)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], TEMPLATE.read_text())


def _data(rows: Sequence[ComparisonRow], metrics: Sequence[str], smooth: int) -> dict[str, Any]:
    """What the page's script draws: for each curve and metric columns of numbers, unsmoothed."""
    curves = []
    for index, row in enumerate(rows):
        colour, dashes, marker = style(index)
        series = {}
        for metric in metrics:
            points, every = thin(visible(row.curve, row.curve.points(metric)))
            names = ("tokens", "seconds", "flops", "value", "stage", "step")
            series[metric] = {name: [getattr(point, name) for point in points] for name in names} | {"every": every}
        stages = [
            stage.name if stage.run == row.curve.last.run else f"{stage.run}/{stage.name}" for stage in row.curve.stages
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


def _script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _tables(rows: Sequence[ComparisonRow]) -> str:
    """The same tables as in the terminal, all columns in each."""
    about = [[row.curve.label, path_of(row.curve), row.curve.state()] for row in rows]
    found, keys = "", differing(rows)
    for title, heads in groups(rows).items():
        cells = [[row.curve.label, *(figure(key, row.metrics.get(key)) for key in heads)] for row in rows]
        found += _table(title, ["run", *heads.values()], cells, True)
    settings = [[row.curve.label, *(text(row.settings.get(key)) for key in keys)] for row in rows]
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
