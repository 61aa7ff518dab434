"""What is refused of an evaluation before anything is sampled: by `python -m train.evaluate`, and by a stage that is
scored while it trains. `conf.commands` has checked each number by itself.
"""

from pathlib import Path

from conf.commands import Evaluate
from conf.errors import ConfigError
from train.evaluate import lm_harness
from train.evaluate.sandbox import SandboxError, check_isolation

# Modules of this folder, as train/evaluate/completion.py describes them.
COMPLETION_TASKS = ("humaneval", "humaneval_plus", "mbpp", "multipl_e")
NEED_PROBLEMS = {"mtpb": "mtpb.jsonl", "humaneval_plus": "HumanEvalPlus.jsonl.gz"}  # task -> its authors' file


def check(command: Evaluate) -> None:
    """Errors: `ConfigError` for a file that is missing, settings that do not fit each other, or no sandbox."""
    if command.problems is None and command.task in NEED_PROBLEMS:
        raise ConfigError(f"task={command.task} needs problems={NEED_PROBLEMS[command.task]}; no package brings it")
    if command.task == "harness":
        lm_harness.check(command)
    for path in command.paths:
        if not Path(path).is_file() and not (command.task == "infill" and Path(path).is_dir()):
            raise ConfigError(f"paths: {path} {'is not a file' if Path(path).exists() else 'does not exist'}")
    if command.task not in ("perplexity", "harness", "infill"):
        try:
            check_isolation(command.sandbox)
        except SandboxError as error:
            raise ConfigError(str(error)) from None
    if command.task == "infill" and (len(command.temperatures), command.samples, command.k) != (1, 1, [1]):
        raise ConfigError("task=infill writes each line once, at one temperature; leave samples and k out")
    if command.task in COMPLETION_TASKS:
        wrong = [k for k in command.k if not 1 <= k <= command.samples]
        if wrong or not command.k:
            most = [k for k in command.k if 1 <= k <= command.samples] or [1]
            raise ConfigError(
                f"pass@k of {command.samples} samples needs 1 <= k <= {command.samples}; k={command.k}, use k={most}"
            )
