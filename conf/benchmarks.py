"""Benchmarks that a stage is scored on while it trains (`evaluation.tasks`): what is wrong with their settings."""

from pathlib import Path

from conf.commands import Evaluate, read_command, task_names
from conf.errors import ConfigError
from conf.schema import TaskConfig
from conf.sources import is_hub_name

# Modules of train/evaluate/, as train/evaluate/completion.py describes them.
COMPLETION_TASKS = ("humaneval", "humaneval_plus", "mbpp", "multipl_e")
NEED_PROBLEMS = {"mtpb": "mtpb.jsonl", "humaneval_plus": "HumanEvalPlus.jsonl.gz"}  # task -> its authors' file


def benchmark_command(name: str, config: TaskConfig, context_length: int) -> Evaluate:
    """The settings in `train.evaluate` of the benchmark `name`; the k of more samples than it draws are left out.

    context_length: of the model, in tokens. Errors: `ConfigError` where there is no such benchmark, or for the first
    setting that it cannot have; whether its problems are as its authors' is seen where they are read.
    """
    key = f"evaluation.tasks.{name}"
    if name not in COMPLETION_TASKS:
        known = f"has no completions to score; use train.evaluate task={name} afterwards"
        raise ConfigError(
            f"{key} {known if name in task_names() else 'is not known; use ' + ', '.join(COMPLETION_TASKS)}"
        )
    try:
        command = read_command(Evaluate, ["run=-", f"task={name}", f"samples={config.samples}", *config.settings])
        command.k = [k for k in command.k if k <= command.samples]
        check_settings(command)
        if command.problems and not (Path(command.problems).is_file() or is_hub_name(command.problems)):
            raise ConfigError(f"problems={command.problems} is not a file, and names on the hub are written owner/name")
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    if command.max_new_tokens >= context_length:
        raise ConfigError(
            f"{key}: max_new_tokens={command.max_new_tokens} leaves no room for a prompt in the context of "
            f"{context_length} tokens; write settings=[max_new_tokens=...]"
        )
    return command


def check_settings(command: Evaluate) -> None:
    """Errors: `ConfigError` for settings of a task that do not fit each other, or problems that are to be named."""
    if command.problems is None and command.task in NEED_PROBLEMS:
        raise ConfigError(f"task={command.task} needs problems={NEED_PROBLEMS[command.task]}; no package brings it")
    if command.task == "infill" and (len(command.temperatures), command.samples, command.k) != (1, 1, [1]):
        raise ConfigError("task=infill writes each line once, at one temperature; leave samples and k out")
    if command.task in COMPLETION_TASKS:
        wrong = [k for k in command.k if not 1 <= k <= command.samples]
        if wrong or not command.k:
            most = [k for k in command.k if 1 <= k <= command.samples] or [1]
            raise ConfigError(
                f"pass@k of {command.samples} samples needs 1 <= k <= {command.samples}; k={command.k}, use k={most}"
            )
