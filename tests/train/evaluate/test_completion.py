"""Benchmarks of single completions: stops of each problem, pass@k by temperature and language."""

import json
from dataclasses import replace
from pathlib import Path

from conf.commands import Evaluate, Sampling, read_command
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.evaluate.cases import ALLOWED
from tests.train.sample.cases import MODEL, TEXTS, generator_of
from train.evaluate import multipl_e
from train.evaluate.completion import best_of, complete_batch, evaluate


def problem(name: str, stops: list[str], tests: str) -> dict[str, object]:
    """A Python problem in MultiPL-E's form; `tests` decide, whatever the completion."""
    task = f"py/{name}"
    return {"task_id": task, "name": name, "language": "py", "prompt": "x = 1 #", "tests": tests, "stop_tokens": stops}


def test_every_problem_has_its_own_stops() -> None:
    generator = generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size))
    problems = {"a": problem("a", [], ""), "b": problem("b", ["e"], "")}
    batch = [{"task_id": name, "sample": index} for index in range(2) for name in problems]
    sampling = Sampling(24, 0.8, 1.0, 0, 1)
    completed = complete_batch(multipl_e, problems, generator, sampling, batch)
    assert [(row["task_id"], row["sample"]) for row in completed] == [(row["task_id"], row["sample"]) for row in batch]
    assert any("e" in row["completion"] for row in completed if row["task_id"] == "a")
    assert not any("e" in row["completion"] for row in completed if row["task_id"] == "b")


def test_rates_are_given_by_temperature_and_language(tmp_path: Path) -> None:
    generator = generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size))
    command = read_command(Evaluate, ["run=x", "task=multipl_e", "samples=2", "k=[1,2]", "max_new_tokens=4"])
    command = replace(command, temperatures=[0.0, 0.5], sandbox=ALLOWED)
    problems = [problem("a", ["\n"], "assert True"), problem("b", ["\n"], "assert False")]
    result = evaluate(multipl_e, command, problems, generator, tmp_path)
    half = {"1": 0.5, "2": 0.5}
    assert result["pass_at_k"] == half and result["temperatures"] == {"0": half, "0.5": half}
    assert result["languages"] == {"py": half}
    lines = (tmp_path / "multipl_e_t0.5.jsonl").read_text().splitlines()
    assert [json.loads(line)["task_id"] for line in lines] == ["py/a", "py/a", "py/b", "py/b"]


def test_the_best_temperature_counts_for_each_k() -> None:
    assert best_of({"1": 0.5, "10": 0.6}, {"1": 0.4, "10": 0.7}) == {"1": 0.5, "10": 0.7}
