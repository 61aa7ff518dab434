"""MTPB (the CodeGen paper, section 4): a program written in turns, each a comment that says what comes next."""

import ast
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.commands import Evaluate, Sampling
from train.evaluate.problems import Row, read_problems, seed_of
from train.evaluate.programs import draw, judge
from train.evaluate.sandbox import Limits
from train.evaluate.truncation import truncate
from train.sample.generator import Generator

KEYS = ("id", "name", "description", "category", "prompts", "inputs", "outputs")
START = "# Import libraries.\n\nimport numpy as np\n\n"
TEMPERATURES = (0.2,)
SAMPLES = 40
MAX_NEW_TOKENS = 256  # a turn, where the problem names no max_gen_length
SECONDS = 20.0
TOLERANCE = 1e-6
PRINTED = "\x1e"  # what stands before each print's text in the output of a program
# The last print counts, and it may be of several lines. Lists of numpy's numbers print as they did with the numpy of
# the benchmark's time: [1.5], not [np.float64(1.5)].
WATCH_PRINTS = f"""\
import builtins as _builtins, sys as _sys, numpy as _numpy
_numpy.set_printoptions(legacy='1.25')
def print(*values, _print=_builtins.print, _out=_sys.stdout, **options):
    if options.get('file') in (None, _out):
        _print({PRINTED!r}, end='')
    _print(*values, **options)
"""


def problem_with(problem: Row) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    for name, kind, word in (("prompts", str, "text"), ("inputs", dict, "JSON objects"), ("outputs", object, "values")):
        of = problem[name]
        if not isinstance(of, list) or not all(isinstance(one, kind) for one in of):
            return f"{name} is no list of {word}"
    length = problem.get("max_gen_length")
    if length is not None and not (isinstance(length, int) and length > 0):
        return f"max_gen_length={length} must be a whole number above 0"
    if not problem["prompts"]:
        return "it has no prompts"
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
    _, found, last = output.rpartition(PRINTED)
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
        cast = type(expected)(value)
        return value if isinstance(value, float) and cast != value else cast  # 6.7 is not 6
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


def evaluate(command: Evaluate, generator: Generator, folder: Path) -> Row:
    """Pass rates turn by turn, and beside them with all turns as one prompt, each at its best temperature."""
    problems = {row["id"]: row for row in read_problems(Path(command.problems or ""), KEYS, problem_with)}
    samples = command.samples or SAMPLES
    result: Row = {"samples": samples, "problems": len(problems)}
    for mode in ("multi_turn", "single_turn"):
        rates = [
            _at_temperature(command, generator, folder, problems, samples, mode, temperature)
            for temperature in command.temperatures or TEMPERATURES
        ]
        best = max(rates, key=lambda rate: float(rate["pass_rate"]))
        result |= best if mode == "multi_turn" else {f"{mode}_{key}": value for key, value in best.items()}
    return result


def _at_temperature(
    command: Evaluate,
    generator: Generator,
    folder: Path,
    problems: dict[Any, Row],
    samples: int,
    mode: str,
    temperature: float,
) -> Row:
    wanted = [
        {"task_id": name, "case": case, "sample": index}
        for name, problem in problems.items()
        for case in range(len(problem["inputs"]))
        for index in range(samples)
    ]
    name, mesh = f"mtpb_{mode}_t{temperature:g}", generator.mesh
    drawn = draw(
        folder / f"{name}.jsonl",
        wanted,
        command.batch_size,
        lambda batch: converse(batch, problems, command, generator, mode, temperature),
        mesh,
        f"draw, {mode.replace('_', ' ')}",
    )
    if not mesh.is_main:
        return {"pass_rate": 0.0}
    passed = judge(
        folder / f"{name}_results.jsonl",
        drawn,
        lambda row: watched(row["program"]),
        lambda row, output: is_right(output, problems[row["task_id"]]["outputs"][row["case"]]),
        Limits(command.seconds or SECONDS),
        command.workers,
        mesh,
        f"run, {mode.replace('_', ' ')}",
    )
    return summarise(problems.values(), {name: sum(values) / len(values) for name, values in passed.items()})


def converse(
    batch: list[Row], problems: dict[Any, Row], command: Evaluate, generator: Generator, mode: str, temperature: float
) -> list[Row]:
    """The programs of a batch of conversations, a turn of all of them at a time."""
    turns = [turns_of(problems[row["task_id"]], row["case"], mode == "single_turn") for row in batch]
    lengths = [
        command.max_new_tokens or problems[row["task_id"]].get("max_gen_length") or MAX_NEW_TOKENS for row in batch
    ]
    contexts = [START] * len(batch)
    for turn in range(max(map(len, turns))):
        for length in sorted(set(lengths)):
            going = [place for place, of in enumerate(turns) if turn < len(of) and lengths[place] == length]
            for place in going:
                contexts[place] += turns[place][turn]
            keys = [(batch[place]["task_id"], batch[place]["case"], batch[place]["sample"]) for place in going]
            texts = generator.generate(
                [contexts[place] for place in going],
                Sampling(length, temperature, command.top_p, command.top_k, command.seed),
                [seed_of(command.seed, temperature, mode, turn, *key) for key in keys],
                ended,
            )
            for place, text in zip(going, texts, strict=True):
                contexts[place] = after_turn(contexts[place], text)
    return [{**row, "program": context} for row, context in zip(batch, contexts, strict=True)]
