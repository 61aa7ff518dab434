"""The comparison as a CSV, JSON or Markdown file."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from train.compare.table import (
    ComparisonRow,
    differing_settings,
    format_metric,
    format_setting,
    lineage_path,
    reading_notes,
    recorded_metrics,
)


def write_table(path: Path, file_format: str, rows: Sequence[ComparisonRow], target: float | None, smooth: int) -> None:
    """Write all metrics and the differing settings. file_format: csv, json (both unrounded) or markdown."""
    keys, names = differing_settings(rows), recorded_metrics(rows)
    if file_format == "json":
        runs = [
            {
                "run": row.curve.label,
                "stages": [stage.key for stage in row.curve.stages],
                "state": row.curve.status(),
                "metrics": {name: row.metrics.get(name) for name in names},
                "settings": {key: row.settings.get(key) for key in keys},
            }
            for row in rows
        ]
        value = {"loss_to_reach": target, "smooth": smooth, "notes": reading_notes(rows, target, smooth), "runs": runs}
        path.write_text(json.dumps(value, indent=2) + "\n")
        return
    header = ["run", "stages", "state", *names, *keys]
    about = [[row.curve.label, lineage_path(row.curve), row.curve.status()] for row in rows]
    settings = [[format_setting(row.settings.get(key)) for key in keys] for row in rows]
    if file_format == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row, first, last in zip(rows, about, settings, strict=True):
                writer.writerow([*first, *(row.metrics.get(name) for name in names), *last])
        return
    lines = [header, ["---"] * 3 + ["---:"] * len(names) + ["---"] * len(keys)]
    for row, first, last in zip(rows, about, settings, strict=True):
        cells = [*first, *(format_metric(name, row.metrics.get(name)) for name in names), *last]
        lines.append([re.sub(r"([\\|<*_`\[])", r"\\\1", cell) for cell in cells])
    notes = "\n".join(f"- {line}" for line in reading_notes(rows, target, smooth))
    path.write_text("\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{notes}\n")
