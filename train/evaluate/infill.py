"""One line is taken out of a function, and the model writes it: exact match, as HumanEval's single lines are scored.

(Fried et al., arXiv 2204.05999; Bavarian et al., arXiv 2207.14255.) The functions are those of Python files, of a run's
own validation sets, or of the authors' file. A model that can infill sees what is before and after the line; every
model is also asked from left to right, with what is before it alone, so that models of both kinds can be compared.
The first line of what it writes counts, either way, as Fried et al. count it.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy

from conf.commands import Evaluate, Sampling
from conf.errors import ConfigError, reason
from conf.run_folder import CONFIG
from model.tokenizer.codegen2 import can_infill
from train.data.token_file import TokenFile
from train.evaluate.perplexity import data_of
from train.evaluate.problems import Problem, read_problems, sample_seed
from train.evaluate.programs import Sample, generate_samples
from train.sample.gap import Gap
from train.sample.generator import Generator
from train.sample.infill import fill
from train.stop import StopSignal

MOST = 1000  # functions that are asked, of more chosen by their hash
KEYS = ("task_id", "prompt", "suffix", "canonical_solution")
LINE = re.compile(r"\s*\S[^\n]*(?=\n)")


def load_problems(command: Evaluate) -> list[Problem]:
    """The lines to write: `prompt` before each, `suffix` after it, and itself, `canonical_solution`.

    Errors: `ConfigError` for files that cannot be read, or where there is no function.
    """
    if command.problems is not None:
        return read_problems(command.problems, KEYS)
    found: dict[str, Problem] = {}
    for place, text in read_files(command.paths) if command.paths else _validation_sets(command.run):
        for number, function in enumerate(functions_in(text)):
            found.setdefault(function, {"task_id": f"{place}#{number}", **without_a_line(function, command.seed)})
    if not found:
        where = ", ".join(command.paths) or f"the validation sets of {command.run}"
        raise ConfigError(f"{where}: there is no Python function of two lines or more; name others with paths=[...]")
    chosen = sorted(found, key=lambda function: sample_seed(command.seed, "problem", function))[:MOST]
    return [found[function] for function in sorted(chosen, key=lambda one: str(found[one]["task_id"]))]


def functions_in(text: str) -> list[str]:
    """Every function and method of a Python program with a line that can be asked; none where it is no program."""
    lines = text.split("\n")
    nodes = [one for node in _statements(text) for one in (node.body if isinstance(node, ast.ClassDef) else [node])]
    found = [
        textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) + "\n"
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [function for function in found if _askable(function)]


def without_a_line(function: str, seed: int) -> dict[str, str]:
    """`function` with one line of its body taken out, chosen by a hash."""
    lines, askable = function.splitlines(keepends=True), _askable(function)
    at = askable[sample_seed(seed, "line", function) % len(askable)]
    return {
        "prompt": "".join(lines[:at]),
        "suffix": "".join(lines[at + 1 :]),
        "canonical_solution": lines[at],
    }


def _askable(function: str) -> list[int]:
    """Lines of a function's body that say something: no docstring, comment or bracket alone."""
    node = next(iter(_statements(function)), None)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):  # dedenting has changed a string, or the like
        return []
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if not body or body[0].lineno == node.lineno:
        return []
    lines = function.splitlines()
    return [
        at
        for at in range(body[0].lineno - 1, min(node.end_lineno or 0, len(lines)))
        if re.search(r"\w", lines[at]) and not lines[at].lstrip().startswith("#")
    ]


def _statements(text: str) -> list[ast.stmt]:
    """Those of a Python program; none where it is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that strings should not have
            return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def evaluate(
    command: Evaluate, problems: list[Problem], generator: Generator, folder: Path, stop: StopSignal | None = None
) -> dict[str, Any]:
    """Share of the lines that are written exactly, but for the space around them, in each way of asking."""
    by_id = {problem["task_id"]: problem for problem in problems}
    sampling = Sampling(command.max_new_tokens, command.temperatures[0], command.top_p, command.top_k, command.seed)

    def infill(asked: list[Problem], seeds: list[int]) -> list[str]:
        return fill(generator, [_gap(one) for one in asked], sampling, seeds, first_line)

    def left_to_right(asked: list[Problem], seeds: list[int]) -> list[str]:
        return generator.generate([_gap(one).prefix for one in asked], sampling, seeds, first_line, whole=True)

    ways = {"infill": infill} if can_infill(generator.tokenizer.special_tokens) else {}
    exact: dict[str, float] = {}
    for name, write in {**ways, "left_to_right": left_to_right}.items():

        def complete(batch: list[Sample], write: Callable[..., list[str]] = write) -> list[Sample]:
            seeds = [sample_seed(sampling.seed, sampling.temperature, row["task_id"], row["sample"]) for row in batch]
            texts = write([by_id[row["task_id"]] for row in batch], seeds)
            return [{**row, "completion": text} for row, text in zip(batch, texts, strict=True)]

        wanted = [{"task_id": one, "sample": 0} for one in by_id]
        path = folder / f"{command.task}_{name}_t{sampling.temperature:g}.jsonl"
        rows = generate_samples(path, wanted, command.batch_size, complete, generator.mesh, name, stop)
        right = [row["completion"].strip() == by_id[row["task_id"]]["canonical_solution"].strip() for row in rows]
        exact[name] = float(numpy.mean(right))
    return {"problems": len(by_id), "exact_match": exact}


def _gap(problem: Problem) -> Gap:
    """The line's place, cut before line breaks: there every tokenizer has a border, and some have none after them."""
    return Gap(problem["prompt"].removesuffix("\n"), "\n" + problem["suffix"])


def first_line(text: str) -> str | None:
    """The first line of `text` that is not blank, once it is whole."""
    found = LINE.match(text)
    return found.group() if found else None


def read_files(paths: list[str]) -> Iterator[tuple[str, str]]:
    """Path and text of each file of `paths`, and of the Python files below its folders that can be read.

    Errors: `ConfigError` for a file that cannot.
    """
    for name in paths:
        path = Path(name)
        for one in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            try:
                yield str(one), one.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                if not path.is_dir():
                    raise ConfigError(f"paths: {one} cannot be read ({reason(error)})") from None


def _validation_sets(source: str) -> Iterator[tuple[str, str]]:
    folder = Path(source)
    run = next((one for one in (folder, *folder.parents[:2]) if (one / CONFIG).is_file()), folder)
    _, data = data_of(run)
    tokenizer = data.tokenizer()
    for key, files in data.corpora.items():
        if files.conversations:
            continue
        tokens = TokenFile(files.validation, files.dtype)
        ids = tokens.read(0, len(tokens))
        ends = numpy.flatnonzero(ids == tokenizer.eos).tolist()
        for number, (first, last) in enumerate(pairwise(ends)):
            yield f"{key}/{number}", tokenizer.decode(ids[first + 1 : last].tolist())
