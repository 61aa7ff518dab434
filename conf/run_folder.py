"""A run's folder: where its files are, how they are read and written, and which run it holds.

config.yaml data.json environment.json metrics.jsonl jobs.json jobs/ logs/ stages.md stages.png tokenizer/ wandb/
stages/<stage>/ deepspeed.json health.jsonl spent.json lineage.json evaluation.json samples.md checkpoints/ weights/
    evaluations/ profile/

`launch`, `train` and `train.compare` all go through this module; it does not import torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from conf.schema import Settings, plain
from conf.secrets import redact

CONFIG = "config.yaml"  # the run's composed settings
METRICS = "metrics.jsonl"  # a record a line
ENVIRONMENT = "environment.json"
TOKENIZER = "tokenizer"
DATA = "data.json"  # what the run read last: the name of its prepared data, corpus -> a digest of its documents
STAGES = "stages"
LOGS = "logs"  # a file per rank: everything rank 0 reports, failures of the others
TENSORBOARD = "tensorboard"  # a folder a stage
WANDB_UNSENT = "unsent"  # mark in an online run's folder below wandb/ whose upload did not end
# Below a stage's folder:
CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"
BEST = "best.json"  # step, scores and samples of the best weights so far, and the evaluations since that were no better
LINEAGE = "lineage.json"
EVALUATION = "evaluation.json"
PROFILE = "profile"  # traces of `profile=steps`, and their table
EVALUATIONS = "evaluations"  # what `train.evaluate` found; of weights that are no stage's, in the working directory
HEALTH = "health.jsonl"  # a line for each step not taken, spike, difference of replicas, and return to a checkpoint

STEP = re.compile(r"step_(\d{8,})")  # the name of a checkpoint's folder
TAIL_BYTES = 65536  # of a file's end that is read for its newest lines


def name_problem(key: str, name: str) -> str | None:
    """What is wrong with the value `name` of the setting `key`, which names a folder; None where nothing is."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+=-]*", name):
        return None
    wrong = dict.fromkeys(re.findall(r"[^A-Za-z0-9._+=-]", name))
    found = f"has {' '.join(map(repr, wrong))}" if wrong else f"begins with {name[0]!r}" if name else "is empty"
    return f"{key}={name!r} must be the name of a folder, letters, digits and ._+=-; it {found}"


def run_folder(settings: Settings) -> Path:
    """The folder of the run: everything it writes is below."""
    return Path(settings.run.root) / settings.run.name


def is_run_folder(folder: Path) -> bool:
    """Whether `folder` holds a run."""
    return (folder / CONFIG).is_file()


def stage_folder(run: Path, name: str) -> Path:
    """The folder of the run's stage `name`."""
    return run / STAGES / name


def is_stage_folder(folder: Path) -> bool:
    """Whether `folder` is the folder of one stage of a run."""
    return folder.is_dir() and folder.parent.name == STAGES and is_run_folder(folder.parents[1])


def begun_stages(run: Path, names: Iterable[str]) -> list[str]:
    """Those of `names`, in their order, that have begun."""
    return [name for name in names if stage_folder(run, name).is_dir()]


def is_finished(run: Path, name: str) -> bool:
    """Whether the stage ran to its end: its weights and its evaluation are there."""
    folder = stage_folder(run, name)
    return (folder / WEIGHTS).is_dir() and (folder / EVALUATION).is_file()


def evaluations_of(source: str) -> Path:
    """The folder of evaluations of weights that are no stage's: their own may be published, or a cache of the hub."""
    return Path(EVALUATIONS) / re.sub(r"[^\w.-]+", "-", os.path.normpath(source)).strip("-.")


def wandb_id(run: Path | str, stage: str) -> str:
    """The id of the stage's W&B run: the same for the same (absolute) run folder and stage, so that it is resumed."""
    return hashlib.sha256(f"{run}/{stage}".encode()).hexdigest()[:12]


def save_settings(settings: Settings, folder: Path) -> None:
    """Write `settings` to the run's folder."""
    write_atomic(folder / CONFIG, redact(OmegaConf.to_yaml(OmegaConf.create(plain(settings)))))


@contextmanager
def open_atomic(path: Path) -> Iterator[IO[str]]:
    """A text file that appears at `path`, replacing what was there, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a file, and the folders above it, so that a reader never sees a part of it."""
    with open_atomic(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, as `write_atomic` does."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def complete_lines(path: Path) -> list[str]:
    """The lines of a JSON-lines file, without a last line that was cut off; none where the file is missing."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return lines[:-1] if lines and not lines[-1].endswith("}") else lines


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, oldest first; a last line that was cut off is left out.

    Errors: `ValueError` for any other line that is not JSON.
    """
    return [json.loads(line) for line in complete_lines(path) if line]


def repair_records(path: Path) -> list[dict[str, Any]]:
    """As `read_records`, and remove a last line that was cut off from the file, so that it can be appended to."""
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return read_records(path)


def append_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append `records` to a JSON-lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write `records` in place of a JSON-lines file, as `write_atomic` does."""
    write_atomic(path, "".join(json.dumps(record) + "\n" for record in records))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line that was cut off is left out."""
    return read_records(run / METRICS)


def newest_step(run: Path) -> dict[str, Any]:
    """The newest record of a training step, empty without one. Reads the file's end only; skips damaged lines."""
    return next(_newest_steps(run), {})


def newest_speed(run: Path) -> float | None:
    """Tokens per second of the newest steps; None where no record tells of it.

    The first record of a process, which has its `start_seconds`, does not: compiling is in it.
    """
    speeds = (row.get("tokens_per_second") for row in _newest_steps(run) if "start_seconds" not in row)
    return next((speed for speed in speeds if speed), None)


def _newest_steps(run: Path) -> Iterator[dict[str, Any]]:
    for line in reversed(last_lines(run / METRICS)):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "loss" in record:
            yield record


def step_name(step: int) -> str:
    """Name of the folder of the checkpoint after `step`."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint's folder."""
    found = STEP.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not the folder of a checkpoint")
    return int(found[1])


def step_folders(folder: Path) -> list[Path]:
    """What may be a checkpoint below `folder`, oldest first; a save that did not end is none."""
    return sorted((path for path in folder.glob("step_*") if STEP.fullmatch(path.name) and path.is_dir()), key=step_of)


def newest_checkpoint(run: Path) -> tuple[str, int] | None:
    """Stage and step of the checkpoint that was saved last: a folder gets such a name when it is complete."""
    found = [path for folder in run.glob(f"{STAGES}/*/{CHECKPOINTS}") for path in step_folders(folder)]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else (newest.parts[-3], step_of(newest))


def last_lines(path: Path) -> list[str]:
    """The lines in the last `TAIL_BYTES` of a file; none where it is missing."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES), os.SEEK_SET)
        return file.read().decode(errors="replace").splitlines()
