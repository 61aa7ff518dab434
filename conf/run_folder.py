"""Where a run lives, and whether the run that lives there is the one that is asked for."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from conf.compose import load_settings
from conf.errors import ConfigError
from conf.schema import Settings, plain

# What may change when a run goes on: how it is spread, watched and kept, not what it computes.
FREE = ("layout", "kernels", "cluster", "tracking", "evaluation", "dry_run", "run", "data.cache", "data.on_error")


def run_folder(settings: Settings) -> Path:
    """The folder of the run: everything it writes is below."""
    return Path(settings.run.root) / settings.run.name


def stage_folder(run: Path, name: str) -> Path:
    """Where the stage `name` of a run keeps what it makes."""
    return run / "stages" / name


def is_finished(run: Path, name: str) -> bool:
    """Whether the stage ran to its end: its weights and its evaluation are there."""
    folder = stage_folder(run, name)
    return (folder / "weights").is_dir() and (folder / "evaluation.json").is_file()


def check_run_folder(settings: Settings) -> bool:
    """True where the folder holds this run already, false where it holds none that has recorded a step.

    Errors: `ConfigError` where it holds a different run, naming a setting that differs, or where run.resume=never.
    """
    folder = run_folder(settings)
    if not (folder / "config.yaml").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no run; choose another folder with run.name=...")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; choose another folder with run.name=...")
        return False
    if not (folder / "metrics.jsonl").is_file():
        return False
    if settings.run.resume == "never":
        raise ConfigError(f"{folder} holds a run already; go on with run.resume=auto or choose another run.name")
    different = differences(plain(load_settings(folder / "config.yaml")), plain(settings))
    if different:
        key, saved, asked = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise ConfigError(
            f"{folder} holds a different run: {key} was {saved}, now {asked}{more}; choose another run.name"
        )
    return True


def save_settings(settings: Settings, folder: Path) -> None:
    """Keep `settings` in the run's folder."""
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(settings))))


def write_whole(path: Path, text: str) -> None:
    """Write a file, and the folders above it, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def differences(one: Any, other: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(key, value in one, value in other) for every setting that makes them different runs."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [(prefix, one, other)]
    found = []
    for key in sorted(one.keys() | other.keys()):
        name = f"{prefix}.{key}" if prefix else key
        if name == "run":
            found += differences(one["run"]["seed"], other["run"]["seed"], "run.seed")
        elif name not in FREE:
            found += differences(one.get(key), other.get(key), name)
    return found
