"""Harnesses: the trusted half of a trial, which runs beside the program and asks it for values."""

import ast
import warnings

from train.evaluate.sandbox import Trial


def function_trial(prompt: str, completion: str, test: str, entry_point: str) -> Trial:
    """The trial of a function that completes `prompt`, by a `test` that defines `check(candidate)`, as HumanEval's do.

    The program is the prompt and its completion. The test runs in the harness, with the prompt's own helpers, which
    some tests use, and calls the function by value: what it returns is compared where the program cannot interfere.
    """
    harness = [
        "program.run()",
        f"_candidate = program.function({entry_point!r})",
        _helpers(prompt),
        f"{entry_point} = _candidate",
        test,
        f"check({entry_point})",
    ]
    return Trial(f"{prompt}{completion}\n", "\n".join(harness))


def _helpers(prompt: str) -> str:
    """`prompt` as a whole program, empty where it is none: its last function lacks a body, or has only a docstring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes
        for text in (f"{prompt}\n    pass\n", prompt):
            try:
                ast.parse(text)
            except (SyntaxError, ValueError):
                continue
            return text
    return ""
