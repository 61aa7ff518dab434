"""A stage goes back to a checkpoint: what was recorded of later steps is dropped, what they took is kept."""

import shutil
from pathlib import Path
from typing import Any

from conf.run_folder import EVALUATIONS, METRICS, read_json, read_metrics, stage_folder, write_json, write_records

Record = dict[str, Any]
SPENT = "spent.json"  # below a stage's folder: its totals when it last went back
PARTS = ("training", "evaluation", "saving", "data")  # of a stage's time; data: waiting for it
# Of a record: what its stage has taken up to then, steps that were dropped included.
TOTALS = ("seconds", "device_seconds", "energy_joules", *(f"seconds_{part}" for part in PARTS))


def drop_after(run: Path, stage: str, step: int) -> list[Record]:
    """Drop a stage's records, and its benchmarks' samples and scores, of the steps after `step`.

    They are of weights that are discarded: those that take their place are sampled anew. Returns the stage's records
    that stay.
    """
    folder, rows = stage_folder(run, stage), read_metrics(run)
    own = [row for row in rows if row["stage"] == stage]
    write_json(folder / SPENT, _totals(folder / SPENT, own))
    for path in (folder / EVALUATIONS).glob("*_step_*"):
        number = path.name.rpartition("_step_")[2]
        if number.isdigit() and int(number) > step:
            shutil.rmtree(path)
    write_records(run / METRICS, (row for row in rows if row["stage"] != stage or row["step"] <= step))
    return [row for row in own if row["step"] <= step]


def spent(run: Path, stage: str) -> dict[str, float]:
    """What a stage has taken so far, by the names of `TOTALS`; those that were never measured are left out."""
    return _totals(stage_folder(run, stage) / SPENT, [row for row in read_metrics(run) if row["stage"] == stage])


def _totals(path: Path, rows: list[Record]) -> dict[str, float]:
    """Of a stage's records, and of what the file at `path` keeps of those that were dropped."""
    records = [*([read_json(path)] if path.is_file() else []), *rows]
    found = {name: [row[name] for row in records if row.get(name) is not None] for name in TOTALS}
    return {name: max(values) for name, values in found.items() if values}
