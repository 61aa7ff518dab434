"""Names that a person gives to weights and data: a folder of this machine, or `owner/name` on the hub."""

import re
from pathlib import Path

from conf.schema import Settings


def is_hub_name(source: str) -> bool:
    """Whether `source` is written as the hub writes names, `owner/name`, and `owner` is no folder here, nor `runs`."""
    written = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None
    return written and not source.startswith("runs/") and not Path(source).parent.is_dir()


def holds_weights(source: str) -> bool:
    """Whether `source` looks like a run, a stage, imported weights, a Hugging Face folder or a name on the hub."""
    marks = (Path(source) / name for name in ("config.yaml", "weights", "model.json", "config.json"))
    return is_hub_name(source) or any(mark.exists() for mark in marks)


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's, or one of its stages'."""
    return (folder / "config.yaml").is_file() or (folder.absolute().parent.parent / "config.yaml").is_file()


def tokenizer_source(settings: Settings) -> tuple[str, str] | None:
    """(setting, its value) that may name a finished tokenizer: data.tokenizer.path, else the first stage's parent.

    None: there is none, and a tokenizer is trained.
    """
    if settings.data.tokenizer.path is not None:
        return "data.tokenizer.path", settings.data.tokenizer.path
    for name, stage in settings.stages.items():
        return None if stage.init_from is None else (f"stages.{name}.init_from", stage.init_from)
    return None
