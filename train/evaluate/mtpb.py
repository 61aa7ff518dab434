"""MTPB (the CodeGen paper, section 4): a program written in turns, each a comment that says what comes next."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.commands import Evaluate, Sampling
from train.evaluate.problems import Problem, read_problems, sample_seed
from train.evaluate.programs import SCORES, Sample, generate_samples, run_samples
from train.evaluate.prompt_perplexity import Part, prompt_perplexities
from train.evaluate.sandbox import Limits, Trial
from train.evaluate.truncation import truncate
from train.sample.generator import Generator
from train.stop import StopSignal

KEYS = ("id", "name", "description", "category", "prompts", "inputs", "outputs")
PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"  # of every program
MODES = ("multi_turn", "single_turn")  # single: all prompts at once, as one turn
GRACE_SECONDS = 5.0  # a program ends itself after its time and may still pass; it is killed this much later


def load_problems(command: Evaluate) -> list[Problem]:
    """The problems of the authors' mtpb.jsonl. Errors: `ConfigError`."""
    return read_problems(command.problems or "", KEYS, find_error)


def find_error(problem: Problem) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    for name, kind, word in (("prompts", str, "text"), ("inputs", dict, "JSON objects"), ("outputs", object, "values")):
        of = problem[name]
        if not isinstance(of, list) or not all(isinstance(one, kind) for one in of):
            return f"{name} is no list of {word}"
        if not of:
            return f"it has no {name}"
    length = problem.get("max_gen_length")
    if length is not None and not (isinstance(length, int) and length > 0):
        return f"max_gen_length={length} must be a whole number above 0"
    for case in range(case_count(problem)):
        try:
            render_turns(problem, case)
        except KeyError as error:
            return f"no input has the name {error.args[0]} of a prompt's slot"
        except (ValueError, IndexError, AttributeError) as error:
            return f"a prompt is no template of str.format ({error})"
    return None


def case_count(problem: Problem) -> int:
    """Inputs and outputs are paired; what one list has more than the other is not used."""
    return min(len(problem["inputs"]), len(problem["outputs"]))


def render_turns(problem: Problem, case: int, mode: str = "multi_turn") -> list[str]:
    """The comments that begin each turn, with the inputs of `case` in the slots; in single_turn all in one."""
    turns = [f"# {prompt.format(**problem['inputs'][case])}\n" for prompt in problem["prompts"]]
    return turns if mode == "multi_turn" else ["".join(turns)]


def stop_turn(completion: str) -> str | None:
    """The final completion, as soon as it has left the turn."""
    final = truncate(completion)
    return final if final != completion else None


def build_program(program: str, gold: Any, seconds: float) -> Trial:
    """A trial that passes where the authors' script counts `program` as passed: its last print is `gold`."""
    return Trial(SCORES, f"{SCORES}\nscore_mtpb(program, {program!a}, {json.dumps(gold)!a}, {seconds})\n")


def summarise(problems: Iterable[Problem], rates: dict[Any, float]) -> dict[str, Any]:
    """Pass rates of all problems, by category and by number of turns. rates: problem's id -> share of its samples."""
    groups: dict[str, dict[str, list[float]]] = {"categories": defaultdict(list), "turns": defaultdict(list)}
    for problem in problems:
        groups["categories"][str(problem["category"])].append(rates[problem["id"]])
        groups["turns"][str(len(problem["prompts"]))].append(rates[problem["id"]])
    means = {
        group: {key: sum(values) / len(values) for key, values in sorted(of.items())} for group, of in groups.items()
    }
    return {"pass_rate": sum(rates.values()) / len(rates), **means}


def mean_perplexity(rates: dict[Any, float], perplexities: dict[Any, list[float | None]]) -> dict[str, float | None]:
    """The mean over problems of their prompts' perplexity: of all, of those that a sample solves, and of the others.

    What was not measured (None) counts in no mean; None: no problem of the group was.
    """
    groups = {"all": list(rates), "solved": [name for name, rate in rates.items() if rate > 0]}
    groups["unsolved"] = [name for name in rates if name not in groups["solved"]]
    means = {name: _mean(values) for name, values in perplexities.items()}
    return {group: _mean([means[name] for name in names]) for group, names in groups.items() if names}


def _mean(values: list[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None


def evaluate(
    command: Evaluate, problems: list[Problem], generator: Generator, folder: Path, stop: StopSignal | None = None
) -> dict[str, Any]:
    """Pass rates turn by turn, and beside them with all turns as one prompt, each at its best temperature; and the
    perplexity of the prompts in both forms, from the first sample of each case.
    """
    by_id = {problem["id"]: problem for problem in problems}
    result: dict[str, Any] = {"samples": command.samples, "problems": len(by_id)}
    for mode in MODES:
        rates = [
            _at_temperature(command, generator, folder, by_id, mode, temperature, stop)
            for temperature in command.temperatures
        ]
        best = max(rates, key=lambda rate: float(rate["pass_rate"]))
        result |= best if mode == "multi_turn" else {f"{mode}_{key}": value for key, value in best.items()}
    return result


def _at_temperature(
    command: Evaluate,
    generator: Generator,
    folder: Path,
    problems: dict[Any, Problem],
    mode: str,
    temperature: float,
    stop: StopSignal | None,
) -> dict[str, Any]:
    wanted = [
        {"task_id": name, "case": case, "sample": index}
        for name, problem in problems.items()
        for case in range(case_count(problem))
        for index in range(command.samples)
    ]
    name, mesh, title = f"mtpb_{mode}_t{temperature:g}", generator.mesh, mode.replace("_", " ")
    samples = generate_samples(
        folder / f"{name}.jsonl",
        wanted,
        command.batch_size,
        lambda batch: complete_programs(batch, problems, command, generator, mode, temperature),
        mesh,
        f"sampling, {title}",
        stop,
    )
    first = [row for row in samples if row["sample"] == 0]
    texts = [split_prompts(row, render_turns(problems[row["task_id"]], row["case"], mode)) for row in first]
    perplexities: dict[Any, list[float | None]] = defaultdict(list)
    for row, value in zip(first, prompt_perplexities(texts, generator, command.batch_size), strict=True):
        perplexities[row["task_id"]].append(value)
    if not mesh.is_main:
        return {"pass_rate": 0.0}
    passed = run_samples(
        folder / f"{name}_results.jsonl",
        samples,
        lambda row: build_program(row["program"], problems[row["task_id"]]["outputs"][row["case"]], command.seconds),
        Limits(command.seconds + GRACE_SECONDS, sandbox=command.sandbox),
        command.workers,
        mesh,
        f"running, {title}",
        stop,
    )
    rates = {name: sum(values) / len(values) for name, values in passed.items()}
    return {**summarise(problems.values(), rates), "prompt_perplexity": mean_perplexity(rates, perplexities)}


def complete_programs(
    batch: list[Sample],
    problems: dict[Any, Problem],
    command: Evaluate,
    generator: Generator,
    mode: str,
    temperature: float,
) -> list[Sample]:
    """`batch` with the `program` of each sample, completed turn by turn: all samples of the batch go through a turn
    together.
    """
    turns = [render_turns(problems[row["task_id"]], row["case"], mode) for row in batch]
    lengths = [problems[row["task_id"]].get("max_gen_length") or command.max_new_tokens for row in batch]
    contexts = [PREFIX] * len(batch)
    completions: list[list[str]] = [[] for _ in batch]
    for turn in range(max(map(len, turns))):
        for length in sorted(set(lengths)):
            active = [index for index, of in enumerate(turns) if turn < len(of) and lengths[index] == length]
            for index in active:
                contexts[index] += turns[index][turn]
            keys = [(batch[index]["task_id"], batch[index]["case"], batch[index]["sample"]) for index in active]
            texts = generator.generate(
                [contexts[index] for index in active],
                Sampling(length, temperature, command.top_p, command.top_k, command.seed),
                [sample_seed(command.seed, temperature, mode, turn, *key) for key in keys],
                stop_turn,
            )
            for index, text in zip(active, texts, strict=True):
                completions[index].append(truncate(text))
                contexts[index] += f"{completions[index][-1]}\n\n"
    return [
        {**row, "program": context, "completions": parts}
        for row, context, parts in zip(batch, contexts, completions, strict=True)
    ]


def split_prompts(row: Sample, turns: list[str]) -> list[Part]:
    """The program of a sample in parts: what the model was asked, and what it wrote."""
    written = [(f"{completion}\n\n", False) for completion in row["completions"]]
    asked = [(turn, True) for turn in turns]
    return [(PREFIX, False), *(part for pair in zip(asked, written, strict=True) for part in pair)]
