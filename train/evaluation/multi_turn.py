"""MTPB (the CodeGen paper, section 4): a program written in turns, each a comment that says what comes next."""

import ast
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from train.evaluation.record import Row
from train.evaluation.truncation import truncate

KEYS = ("id", "name", "description", "category", "prompts", "inputs", "outputs")
START = "# Import libraries.\n\nimport numpy as np\n\n"
TEMPERATURES = (0.2,)
SAMPLES = 40
MAX_NEW_TOKENS = 256  # a turn, where the problem names no max_gen_length
SECONDS = 20.0
TOLERANCE = 1e-6
PRINTED = "\x1e"  # what stands before each print's text in the output of a program
# The last print counts, and it may be of several lines.
WATCH_PRINTS = f"""\
import builtins as _builtins
def print(*values, _print=_builtins.print, **options):
    _print({PRINTED!r}, end='', file=options.get('file'))
    _print(*values, **options)
"""


def problem_with(problem: Row) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    if len(problem["inputs"]) != len(problem["outputs"]) or not problem["inputs"]:
        return f"{len(problem['inputs'])} inputs and {len(problem['outputs'])} outputs; each case needs one of both"
    for case in problem["inputs"]:
        for prompt in problem["prompts"]:
            unknown = [name for name in re.findall(r"\{(\w+)\}", prompt) if name not in case]
            if unknown:
                return f"no input has the name {unknown[0]} of a prompt's slot"
    return None


def turns_of(problem: Row, case: int, single: bool) -> list[str]:
    """The comments that begin each turn, slots filled with the inputs of `case`; all in one turn where `single`."""
    inputs = problem["inputs"][case]
    filled = [re.sub(r"\{(\w+)\}", lambda slot: str(inputs[slot[1]]), prompt) for prompt in problem["prompts"]]
    turns = [f"# {prompt}\n" for prompt in filled]
    return ["".join(turns)] if single else turns


def after_turn(context: str, completion: str) -> str:
    """The program so far, once a turn's completion is cut where it leaves the turn."""
    return f"{context}{truncate(completion)}\n\n"


def ended(completion: str) -> str | None:
    """The final completion, as soon as it has left the turn."""
    final = truncate(completion)
    return final if final != completion else None


def watched(program: str) -> str:
    """`program`, so that `is_right` finds its last print."""
    return f"{WATCH_PRINTS}\n{program}"


def is_right(output: str, expected: Any) -> bool:
    """Whether the last thing that the program printed is `expected`, read as a value of its type."""
    printed, found, last = output.rpartition(PRINTED)
    return bool(found) and _equal(_cast(last.strip(), expected), expected)


def _cast(text: str, expected: Any) -> Any:
    """`text` as a value of `expected`'s type; itself where it is none."""
    if isinstance(expected, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:  # an array prints without commas
            value = ast.literal_eval(re.sub(r"(?<=[\d.\]])\s+(?=[-\d.\[])", ", ", text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    try:
        if isinstance(expected, bool):
            return bool(value)
        return type(expected)(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return isinstance(value, float | int) and math.isclose(value, expected, rel_tol=0, abs_tol=TOLERANCE)
    if isinstance(expected, list):
        same = isinstance(value, list | tuple) and len(value) == len(expected)
        return same and all(_equal(one, other) for one, other in zip(value, expected, strict=True))
    if isinstance(expected, dict):
        same = isinstance(value, dict) and {str(key) for key in value} == expected.keys()
        return same and all(_equal(one, expected[str(key)]) for key, one in value.items())
    return bool(value == expected)


def summarise(problems: Iterable[Row], rates: dict[Any, float]) -> dict[str, Any]:
    """Pass rates of all problems, by category and by number of turns. rates: problem's id -> share of its samples."""
    groups: dict[str, dict[str, list[float]]] = {"categories": defaultdict(list), "turns": defaultdict(list)}
    for problem in problems:
        groups["categories"][str(problem["category"])].append(rates[problem["id"]])
        groups["turns"][str(len(problem["prompts"]))].append(rates[problem["id"]])
    means = {
        group: {key: sum(values) / len(values) for key, values in sorted(of.items())} for group, of in groups.items()
    }
    return {"pass_rate": sum(rates.values()) / len(rates), **means}
