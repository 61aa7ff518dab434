"""Opening a run's folder (`conf/run_folder.py` has its paths): settings, tokenizer, environment and git state."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from conf.errors import ConfigError
from conf.extensions import other_documents, read_data, record_extension
from conf.partial_folder import partial_folder
from conf.resume import check_run_folder
from conf.run_folder import (
    DATA,
    ENVIRONMENT,
    LOGS,
    TOKENIZER,
    run_folder,
    save_settings,
    write_atomic,
    write_json,
)
from conf.schema import Settings
from conf.secrets import redact
from model.tokenizer import load_tokenizer

PACKAGES = ("torch", "deepspeed", "hydra-core", "omegaconf", "datasets", "sentencepiece", "wandb", "numpy", "apex")


def open_run(settings: Settings, data: Path, digests: Mapping[str, str] | None = None) -> Path:
    """Make the run's folder, or open the one that holds this run, and record the environment. Main process only.

    data: the prepared data; its tokenizer is copied into the run's folder, since the run outlives the data.
    digests: of each corpus' documents to train on.
    Errors: `ConfigError` where the folder holds something else, or was trained on other documents.
    """
    folder, tokenizer = run_folder(settings), data / TOKENIZER
    resumes = check_run_folder(settings)
    if resumes:
        _refuse_other_tokenizer(folder / TOKENIZER, tokenizer)
        record_extension(settings, other_documents(settings, digests or {}))
    save_settings(settings, folder)
    kept = read_data(folder)["digests"] if resumes else {}
    write_json(folder / DATA, {"folder": data.name, "digests": {**kept, **(digests or {})}})
    (folder / LOGS).mkdir(exist_ok=True)
    if not (resumes and (folder / TOKENIZER).is_dir()):
        shutil.rmtree(folder / TOKENIZER, ignore_errors=True)  # of a start that failed
        with partial_folder(folder / TOKENIZER) as partial:
            shutil.copytree(tokenizer, partial, dirs_exist_ok=True)
    write_atomic(folder / ENVIRONMENT, redact(json.dumps(environment(), indent=2)) + "\n")
    return folder


def _refuse_other_tokenizer(own: Path, prepared: Path) -> None:
    """The ids of a run keep their meaning, whatever data it resumes with."""
    if not own.is_dir():
        return
    ours, theirs = load_tokenizer(own), load_tokenizer(prepared)
    if ours.vocab_size != theirs.vocab_size or any(
        ours.token_bytes(token) != theirs.token_bytes(token) for token in range(ours.vocab_size)
    ):
        raise ConfigError(
            f"the data is prepared with another tokenizer than the run's; resume with data.tokenizer.kind={ours.kind} "
            f"data.tokenizer.path={own}"
        )


def environment() -> dict[str, Any]:
    """Host, command, package versions, devices, and the git state of the code."""
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
    """Commit and uncommitted changes of the repository that contains `folder`; empty outside of one."""

    def git(*arguments: str) -> str | None:
        try:
            ran = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
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
