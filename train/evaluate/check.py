"""What is refused of an evaluation before anything is sampled: by `python -m train.evaluate`, and by a stage that is
scored while it trains. `conf.benchmarks` has what the settings alone tell.
"""

from importlib import import_module
from pathlib import Path

from conf.benchmarks import check_settings
from conf.commands import Evaluate
from conf.errors import ConfigError
from train.evaluate import lm_harness
from train.evaluate.problems import Problem
from train.evaluate.sandbox import SandboxError, check_isolation


def check(command: Evaluate) -> None:
    """Errors: `ConfigError` for a file that is missing, settings that do not fit each other, or no sandbox."""
    if command.task == "harness":
        lm_harness.check(command)
    for path in command.paths:
        if not Path(path).is_file() and not (command.task == "infill" and Path(path).is_dir()):
            raise ConfigError(f"paths: {path} {'is not a file' if Path(path).exists() else 'does not exist'}")
    check_settings(command)
    if command.task not in ("perplexity", "harness", "infill"):
        try:
            check_isolation(command.sandbox)
        except SandboxError as error:
            raise ConfigError(str(error)) from None


def benchmark_problems(command: Evaluate) -> list[Problem]:
    """The problems of a benchmark that a stage is scored on.

    Errors: `ConfigError` where they cannot be read, or programs cannot be run here.
    """
    try:
        check(command)
        problems: list[Problem] = import_module(f"train.evaluate.{command.task}").load_problems(command)
    except ConfigError as error:
        raise ConfigError(f"evaluation.tasks.{command.task}: {error}") from None
    return problems
