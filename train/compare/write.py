"""The comparison as a CSV, JSON or Markdown file."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from train.compare.seeds import seed_groups, with_means
from train.compare.table import (
    ComparisonRow,
    differing_settings,
    lineage_path,
    reading_notes,
    recorded_metrics,
)


def write_table(path: Path, file_format: str, rows: Sequence[ComparisonRow], target: float | None, smooth: int) -> None:
    """Write all metrics and the differing settings. file_format: csv, json (both unrounded) or markdown.

    Mean and standard deviation over seeds are two lines below their runs in CSV, one in Markdown, `seeds` in JSON.
    """
    keys, names, groups = differing_settings(rows), recorded_metrics(rows), seed_groups(rows)
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
        seeds = [
            {"name": mean.name, "runs": [row.label for row in mean.members], "mean": mean.metrics, "std": mean.spreads}
            for mean in (group.mean() for group in groups)
        ]
        about = {"loss_to_reach": target, "smooth": smooth, "notes": reading_notes(rows, target, smooth)}
        path.write_text(json.dumps(about | {"runs": runs, "seeds": seeds}, indent=2) + "\n")
        return
    header, lines = ["run", "stages", "state", *names, *keys], with_means(rows, groups)
    if file_format == "csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in lines:
                first, last = [lineage_path(row.curve), row.state], [row.setting(key) for key in keys]
                writer.writerow([row.label, *first, *(row.metrics.get(name) for name in names), *last])
                if row.members:
                    label = f"{row.name}, standard deviation of {len(row.members)} seeds"
                    writer.writerow([label, *first, *(row.spreads.get(name) for name in names), *last])
        return
    notes = "\n".join(f"- {line}" for line in reading_notes(rows, target, smooth))
    path.write_text(f"{markdown_table(rows)}\n\n{notes}\n")


def markdown_table(rows: Sequence[ComparisonRow]) -> str:
    """All metrics and the differing settings as a Markdown table, the mean over seeds below its runs."""
    keys, names = differing_settings(rows), recorded_metrics(rows)
    table = [["run", "stages", "state", *names, *keys], ["---"] * 3 + ["---:"] * len(names) + ["---"] * len(keys)]
    for row in with_means(rows, seed_groups(rows)):
        cells = [row.label, lineage_path(row.curve), row.state, *map(row.metric, names), *map(row.setting, keys)]
        table.append([re.sub(r"([\\|<*_`\[])", r"\\\1", cell) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in table)
