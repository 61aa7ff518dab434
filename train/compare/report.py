"""The comparison as a report on W&B's server: `report=wandb`, for runs that are there."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from conf.errors import ConfigError
from conf.run_folder import LINEAGE, wandb_id
from train.compare.page import run_colours, sections
from train.compare.read import StageRecords, read_json
from train.compare.table import ComparisonRow, reading_notes
from train.compare.write import markdown_table
from train.wandb_run import is_online

COLUMNS, WIDTH, HEIGHT = 3, 8, 6  # panels in a row; of a panel, in the units of W&B's grid of 24


def save_report(rows: Sequence[ComparisonRow], target: float | None, smooth: int) -> str:
    """Save the report to the project of the runs and return its address.

    It has the table of `--markdown`, with mean and standard deviation over seeds, and the panels of the page: every
    stage of the curves is a line there, in the page's colour. target, smooth: as in `table.build_rows`.

    Errors: `ConfigError` without a server, where it cannot be used, and for runs of several projects.
    """
    if not is_online():
        raise ConfigError("report=wandb needs W&B's server: log in with `wandb login` and set WANDB_API_KEY")
    projects = {stage.settings.tracking.project for row in rows for stage in row.curve.stages}
    if len(projects) > 1:
        raise ConfigError(f"the runs are in several W&B projects, {', '.join(sorted(projects))}; a report shows one")
    try:
        return _save(rows, projects.pop(), target, smooth)
    except Exception as error:  # the client raises errors of many libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"W&B's server did not save the report: {reason}") from None


def _save(rows: Sequence[ComparisonRow], project: str, target: float | None, smooth: int) -> str:
    reports: Any = import_module("wandb_workspaces.reports.v2")  # it has no complete types
    colours, settings = run_colours(rows), {}
    for row in rows:
        for stage in row.curve.stages[row.curve.visible_from :]:
            settings[stage_id(stage)] = reports.RunSettings(color=colours[id(row)])
    entity = next((row.curve.last_stage.settings.tracking.entity for row in rows), None)
    where: dict[str, Any] = {"project": project} | ({"entity": entity} if entity else {})
    metrics = dict.fromkeys(key for row in rows for at in row.curve.totals() for key in at.record)
    blocks: list[Any] = [reports.MarkdownBlock(text=markdown_table(rows))]
    blocks += [reports.UnorderedList(items=reading_notes(rows, target, smooth))]
    for section in sections(metrics):
        panels = [
            reports.LinePlot(
                title=metric["title"],
                x="tokens",
                y=[metric["key"]],
                smoothing_factor=(smooth - 1) / (smooth + 1),
                layout=reports.Layout(x=WIDTH * (i % COLUMNS), y=HEIGHT * (i // COLUMNS), w=WIDTH, h=HEIGHT),
            )
            for i, metric in enumerate(section["metrics"])
        ]
        runs = reports.Runset(**where, name="runs", filters=f"ID in {sorted(settings)}", run_settings=settings)
        blocks += [reports.H2(text=section["title"]), reports.PanelGrid(runsets=[runs], panels=panels)]
    title = f"Comparison of {', '.join(row.label for row in rows)}"
    report = reports.Report(**where, title=title[:125] + "..." * (len(title) > 125), blocks=blocks, width="fluid")
    return str(report.save().url)


def stage_id(stage: StageRecords) -> str:
    """The id of the W&B run that recorded the stage: that of the folder in which it was trained."""
    run = str(Path(stage.key).parents[1])
    return wandb_id(read_json(stage.folder / LINEAGE).get("run", run) if stage.folder else run, stage.name)
