"""A run is a folder: settings, git state, environment, metrics, checkpoints, samples and reports of every stage.

config.yaml environment.json metrics.jsonl stages.png stages.md wandb/
tokenizer/
stages/<stage>/ deepspeed.json lineage.json evaluation.json samples.md checkpoints/ weights/
"""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from conf.run_folder import check_run_folder, run_folder, save_settings, write_whole
from conf.schema import Settings

PACKAGES = ("torch", "deepspeed", "hydra-core", "omegaconf", "datasets", "sentencepiece", "wandb", "numpy", "apex")


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader never sees half of it."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a .jsonl file that was being written; a line that was cut off is dropped from it."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines() if line]


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add `rows` to a .jsonl file."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def open_run(settings: Settings, tokenizer: Path) -> Path:
    """Make the run's folder, or take the one that holds this run, and record what it runs on. Main process only.

    The tokenizer's folder is copied, since the run outlives the prepared data.
    Errors: `ConfigError` where the folder holds something else.
    """
    folder = run_folder(settings)
    resumes = check_run_folder(settings)
    save_settings(settings, folder)
    if not (resumes and (folder / "tokenizer").is_dir()):
        partial = folder / "tokenizer.partial"
        shutil.copytree(tokenizer, partial, dirs_exist_ok=True)
        shutil.rmtree(folder / "tokenizer", ignore_errors=True)
        partial.rename(folder / "tokenizer")
    write_json(folder / "environment.json", environment())
    return folder


def environment() -> dict[str, Any]:
    """Where and with what this process runs: host, packages, devices, and the git state of the code."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "command": sys.argv,
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] or ["cpu"],
        "git": git_state(Path(__file__).parent),
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and uncommitted changes of the repository around `folder`; empty outside of one."""

    def git(*words: str) -> str | None:
        try:
            ran = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return ran.stdout if ran.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "commit": commit.strip(),
        "status": (git("status", "--porcelain") or "").splitlines(),
        "diff": git("diff", "HEAD"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
