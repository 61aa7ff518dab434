"""HumanEval+ (arXiv 2305.01210): HumanEval's functions, compared with the authors' solutions on 80 times the inputs."""

import json

from conf.commands import Evaluate
from train.evaluate.harness import function_trial
from train.evaluate.problems import Problem, read_problems
from train.evaluate.programs import SCORES
from train.evaluate.sandbox import Trial

KEYS = ("task_id", "prompt", "entry_point", "canonical_solution")
INPUTS = ("base_input", "plus_input")
STOPS = ("\nif __name__", "\ndef main(", "\nprint(", "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")


def load_problems(command: Evaluate) -> list[Problem]:
    """The problems of the authors' HumanEvalPlus.jsonl or of their data set on the hub. Errors: `ConfigError`."""
    problems = read_problems(command.problems or "", KEYS, find_error)
    return [
        {**problem, "prompt": problem["prompt"].strip() + "\n", "full_prompt": problem["prompt"]}
        for problem in problems
    ]


def find_error(problem: Problem) -> str | None:
    """What is wrong with a problem, None where nothing is. It has inputs in the authors' file, a test on the hub."""
    wrong = [name for name in KEYS if not isinstance(problem[name], str)]
    if wrong:
        return f"{wrong[0]} is no text"
    if isinstance(problem.get("test"), str) and INPUTS[0] not in problem:
        return None
    for name in INPUTS:
        if not isinstance(problem.get(name), list) or not all(isinstance(one, list) for one in problem[name]):
            return f"{name} is no list of lists of arguments"
    if not isinstance(problem.get("atol"), int | float):
        return f"atol={problem.get('atol')} is no number"
    return None


def stop_strings(problem: Problem) -> tuple[str, ...]:
    """A completion ends before the first of these."""
    return STOPS


def build_program(problem: Problem, completion: str) -> Trial:
    """The function is called with all inputs; it passes where it returns what the authors' solution does."""
    if INPUTS[0] not in problem:
        return function_trial(problem["prompt"], completion, problem["test"], problem["entry_point"])
    solution, canonical = problem["prompt"] + completion, problem["full_prompt"] + problem["canonical_solution"]
    inputs = json.dumps([problem[name] for name in INPUTS])
    arguments = f"program, {solution!a}, {canonical!a}, {problem['entry_point']!a}, {inputs!a}, {problem['atol']}"
    return Trial(SCORES, f"{SCORES}\nscore_humaneval_plus({arguments})\n")
