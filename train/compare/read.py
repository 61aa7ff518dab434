"""Finds the runs named on the command line and reads their stages from the run folders."""

import glob
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from conf.benchmarks import COMPLETION_TASKS
from conf.compose import load_settings
from conf.errors import ConfigError
from conf.run_folder import HEALTH, complete_lines, is_stage_folder, wandb_id
from conf.schema import Settings
from train.compare.events import Event, count_events, read_events

RECENT_SECONDS = 600  # an unfinished run counts as still going if its last record is younger
Record = dict[str, Any]
COUNTS = ("step", "tokens", "seconds", "flops", "devices")  # of a record: always a number
NUMBERS = (*COUNTS, "loss", "tokens_per_second", "mfu", "memory_bytes")  # None: was not finite


@dataclass
class StageRecords:
    """The records of one stage of one run.

    key: unique among all stages: its folder, or for W&B's records the folder in which it was trained.
    parent: key of the stage whose weights it started from, or None.
    records: as in metrics.jsonl, oldest first. scores: results of the evaluations after the stage, by metric.
    events: of its health.jsonl.
    """

    key: str
    run: str
    name: str
    folder: Path | None
    settings: Settings
    records: list[Record]
    parent: str | None
    finished: bool
    recent: bool
    scores: dict[str, float] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def steps(self) -> tuple[int, int]:
        """(last recorded step, configured number of steps)."""
        return max((row["step"] for row in self.records), default=0), self.settings.stages[self.name].steps


def find_runs(pattern: str) -> list[Path]:
    """The run and stage folders that `pattern` matches: a run, a stage, its offline W&B folder, or a glob of these.

    Errors: `ConfigError` for a path that does not exist or is not a run, and a glob that matches no run.
    """
    if Path(pattern).exists():
        return [_resolve(Path(pattern))]
    if not glob.has_magic(pattern):
        raise ConfigError(
            f"{pattern} does not exist; give a run's folder, one of its stages, or wandb:entity/project/id"
        )
    found = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        try:
            found.append(_resolve(Path(path)))
        except _NotARun:
            continue  # other folders may match a glob
    if not found:
        raise ConfigError(f"{pattern} matches no run; a run is a folder with a config.yaml, written by training")
    return list(dict.fromkeys(found))


def read_folder(folder: Path) -> list[StageRecords]:
    """The stages with records of a run folder, in order, or the one stage of a stage folder.

    Errors: `ConfigError` for a damaged file, `NoRecords` for a run without records.
    """
    one = folder.name if is_stage_folder(folder) else None
    run = folder.parents[1] if one else folder
    settings = read_settings(run / "config.yaml")
    if one and one not in settings.stages:
        raise ConfigError(f"{folder} is no stage of its run; there are {', '.join(settings.stages)}")
    path = run / "metrics.jsonl"
    rows = read_records(path)
    recent = path.is_file() and time.time() - path.stat().st_mtime < RECENT_SECONDS
    stages = []
    for name in [one] if one else settings.stages:
        # A benchmark's score is recorded some steps after the one that it belongs to.
        records = sorted((row for row in rows if row["stage"] == name), key=lambda row: float(row["step"]))
        if records:
            stages.append(_stage(run, name, settings, records, recent))
    if not stages:
        raise NoRecords(f"{folder} has no records yet; compare it when it has trained a step")
    if not one and stages[-1].name != list(settings.stages)[-1]:
        stages[-1].finished = False  # the stages after it have not begun
    return stages


def read_settings(path: Path) -> Settings:
    """The settings a run was saved with. Errors: `ConfigError` with the path where the file is damaged."""
    try:
        return _load_settings(path, path.stat().st_mtime_ns)
    except (yaml.YAMLError, OSError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"{path} cannot be read as settings: {_first_line(error)}; copy the run again") from None


@cache
def _load_settings(path: Path, written: int) -> Settings:
    """The settings in `path`, written at that time: reading them is most of the work of comparing again."""
    return load_settings(path)


def read_records(path: Path) -> list[Record]:
    """The records of metrics.jsonl, oldest first; a last line that is cut off, as of a run still going, is left out.

    Errors: `ConfigError` with the line that is damaged.
    """
    try:
        lines = complete_lines(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            read = {key: value for key, value in row.items() if key in NUMBERS or key.startswith("bits_per_byte/")}
            if not all(_is_number(value) or (value is None and key not in COUNTS) for key, value in read.items()):
                raise TypeError
            if not all(isfinite(read.get(key, 0)) for key in COUNTS):
                raise ValueError
            more = {key: value for key, value in row.items() if _is_number(value) and isfinite(value)}
            rows.append({"stage": row["stage"], "step": row["step"], "tokens": row["tokens"], **more, **read})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(f"{path} line {number} is no record of training; remove the line or copy again") from None
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file. Errors: `ConfigError` with the path where it is damaged."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(errors="replace"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is damaged: {_first_line(error)}; write it again or remove it") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no object; write it again or remove it")
    return value


class NoRecords(ConfigError):
    """The run has not recorded a step yet."""


class _NotARun(ConfigError):
    """The folder is not a run."""


def _resolve(path: Path) -> Path:
    """The run or stage folder of `path`, which may be an offline W&B folder."""
    path = path.resolve()
    if path.parent.name == "wandb" and (match := re.fullmatch(r"(?:offline-)?run-\d+_\d+-(\w+)", path.name)):
        return _stage_of_wandb(path, match[1])
    if (path / "config.yaml").is_file() or is_stage_folder(path):
        return path
    raise _NotARun(f"{path} is no run: it holds no config.yaml; give a folder that training has made")


def _stage_of_wandb(path: Path, id_of_run: str) -> Path:
    """The stage of an offline W&B folder inside a run: W&B's id is a hash of the run folder and the stage.

    lineage.json gives the run folder at training time, for runs that were moved.
    """
    run = path.parents[1]
    if not (run / "config.yaml").is_file():
        raise _NotARun(f"{path} is not below a run: {run} holds no config.yaml; give the run's folder")
    names = list(read_settings(run / "config.yaml").stages)
    for name in names:
        place = read_json(run / "stages" / name / "lineage.json").get("run", run)
        for folder in (run, place):
            if wandb_id(folder, name) == id_of_run:
                return run / "stages" / name
    raise ConfigError(f"{path} fits no stage of {run}, which has moved; give {run}/stages/{names[-1]} or another stage")


def _stage(run: Path, name: str, settings: Settings, records: list[Record], recent: bool) -> StageRecords:
    folder = run / "stages" / name
    evaluation = read_json(folder / "evaluation.json")
    lineage = read_json(folder / "lineage.json")
    parent = lineage["parent"] if "parent" in lineage else _planned_parent(run, name, settings)
    if not isinstance(parent, str | None):
        raise ConfigError(f"{folder / 'lineage.json'} names no folder as parent; write it again or remove it")
    if parent is not None:
        parent = _locate_parent(run, parent, str(lineage.get("run", run)))
    scores = dict(_scores(folder))
    finished, events = bool(evaluation), read_events(folder / HEALTH)
    records = count_events(records, events)
    return StageRecords(
        str(folder), settings.run.name, name, folder, settings, records, parent, finished, recent, scores, events
    )


def _locate_parent(run: Path, parent: str, trained: str) -> str:
    """A parent's current folder: in this run, at its recorded path, or beside this run where both were moved."""
    path = Path(parent)
    if parent.startswith(f"{trained}/stages/"):
        return str(run / "stages" / path.name)
    beside = [run.parent / path.parts[-3] / "stages" / path.name] if len(path.parts) > 2 else []
    return next((str(place.resolve()) for place in [path, *beside] if is_stage_folder(place)), parent)


def _planned_parent(run: Path, name: str, settings: Settings) -> str | None:
    """The parent of an unfinished stage, which has no lineage.json yet."""
    source, names = settings.stages[name].init_from, list(settings.stages)
    if source is None:
        before = names.index(name) - 1
        return str(run / "stages" / names[before]) if before >= 0 else None
    path = Path(source) / "config.yaml"
    return str(Path(source) / "stages" / list(read_settings(path).stages)[-1]) if path.is_file() else source


def _scores(folder: Path) -> Iterator[tuple[str, float]]:
    """(metric, value) of all evaluations of a stage: bits per byte, pass@k, MTPB, perplexity."""
    for corpus, value in _figures(folder / "evaluation.json", "bits_per_byte"):
        yield f"bits_per_byte/{corpus}", value
    for task in COMPLETION_TASKS:
        passed = _figures(folder / "evaluations" / f"{task}.json", "pass_at_k")
        for k, value in sorted(passed, key=lambda item: (len(item[0]), item[0])):
            yield f"{task}/pass@{k}", value
    rate = read_json(folder / "evaluations" / "mtpb.json").get("pass_rate")
    yield from _numbers("mtpb", rate)
    yield from _numbers("perplexity", read_json(folder / "evaluations" / "perplexity.json"))


def _figures(path: Path, key: str) -> list[tuple[str, float]]:
    """The numbers by name below `key`. Errors: `ConfigError` where anything else stands there."""
    values = read_json(path).get(key, {})
    if not isinstance(values, dict) or not all(_is_number(value) for value in values.values()):
        raise ConfigError(f"{path} holds no numbers below '{key}'; write it again or remove it")
    return [(name, value) for name, value in values.items() if isfinite(value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """(path, value) of every number in nested objects."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(f"{name}/{key}", each)
    elif _is_number(value) and isfinite(value):
        yield name, value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
