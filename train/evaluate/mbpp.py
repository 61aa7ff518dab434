"""MBPP (arXiv 2108.07732): functions asked for in a sentence and three asserts, after three solved examples."""

from conf.commands import Evaluate
from conf.errors import ConfigError
from train.evaluate.problems import Problem, read_problems

KEYS = ("task_id", "code", "test_list")
EVALUATED = range(11, 511)  # task ids; the others are for prompts and training
EXAMPLES = (2, 3, 4)  # task ids of the examples in the prompt
STOP = "[DONE]"


def load_problems(command: Evaluate) -> list[Problem]:
    """The 500 problems for evaluation of the authors' mbpp.jsonl or sanitized-mbpp.json, or of the hub's copies.

    Errors: `ConfigError` where the file lacks the examples or all of these problems.
    """
    problems = {problem["task_id"]: problem for problem in read_problems(command.problems or "", KEYS, find_error)}
    missing = [str(name) for name in EXAMPLES if name not in problems]
    if missing:
        raise ConfigError(f"problems={command.problems} lacks task_id {', '.join(missing)}, examples of the prompt")
    examples = "".join(f"{ask(problems[name])}{_lines(problems[name]['code'])}\n{STOP}\n\n" for name in EXAMPLES)
    chosen = [{**problem, "prompt": examples + ask(problem)} for name, problem in problems.items() if name in EVALUATED]
    if not chosen:
        raise ConfigError(f"problems={command.problems} holds none of the problems 11 to 510, which are evaluated")
    return chosen


def find_error(problem: Problem) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    if not isinstance(problem["task_id"], int):
        return f"task_id={problem['task_id']} is no whole number"
    if not isinstance(problem["code"], str):
        return "code is no text"
    if not isinstance(problem["test_list"], list) or not all(isinstance(test, str) for test in problem["test_list"]):
        return "test_list is no list of text"
    if not isinstance(problem.get("text", problem.get("prompt")), str):
        return "it has no text of the task"
    return None


def ask(problem: Problem) -> str:
    """What precedes a solution; the sanitized file calls the text of the task `prompt`."""
    text, tests = problem.get("text", problem.get("prompt")), "\n".join(problem["test_list"])
    return (
        f"You are an expert Python programmer, and here is your task: {text} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def stop_strings(problem: Problem) -> tuple[str, ...]:
    """A completion ends before the first of these."""
    return (STOP,)


def build_program(problem: Problem, completion: str) -> str:
    """The solution, and the asserts, which raise where it is wrong."""
    setup = [problem.get("test_setup_code") or "", *(problem.get("test_imports") or [])]
    return "\n".join([*setup, completion, *problem["test_list"]])


def _lines(code: str) -> str:
    return code.replace("\r\n", "\n")
