"""The comparison as files: CSV, JSON and Markdown of the same rows."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from train.compare.table import ComparisonRow, columns, differing, explain, figure, path_of, text


def write_table(path: Path, kind: str, rows: Sequence[ComparisonRow], target: float | None, smooth: int) -> None:
    """Write all figures and the differing settings. kind: csv, json (unrounded both) or markdown."""
    keys, names = differing(rows), columns(rows)
    if kind == "json":
        runs = [
            {
                "run": row.curve.label,
                "stages": [stage.key for stage in row.curve.stages],
                "state": row.curve.state(),
                "metrics": {name: row.metrics.get(name) for name in names},
                "settings": {key: row.settings.get(key) for key in keys},
            }
            for row in rows
        ]
        value = {"loss_to_reach": target, "smooth": smooth, "notes": explain(rows, target, smooth), "runs": runs}
        path.write_text(json.dumps(value, indent=2) + "\n")
        return
    head = ["run", "stages", "state", *names, *keys]
    about = [[row.curve.label, path_of(row.curve), row.curve.state()] for row in rows]
    settings = [[text(row.settings.get(key)) for key in keys] for row in rows]
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            for row, first, last in zip(rows, about, settings, strict=True):
                writer.writerow([*first, *(row.metrics.get(name) for name in names), *last])
        return
    lines = [head, ["---"] * 3 + ["---:"] * len(names) + ["---"] * len(keys)]
    for row, first, last in zip(rows, about, settings, strict=True):
        cells = [*first, *(figure(name, row.metrics.get(name)) for name in names), *last]
        lines.append([re.sub(r"([\\|<*_`\[])", r"\\\1", cell) for cell in cells])
    notes = "\n".join(f"- {line}" for line in explain(rows, target, smooth))
    path.write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{notes}\n")
