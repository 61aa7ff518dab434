"""HumanEval+: every call of every input returns what the authors' solution does."""

import json
from pathlib import Path

import pytest

from conf.commands import Evaluate
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.humaneval_plus import build_program, load_problems
from train.evaluate.sandbox import Limits, run_programs

HALF = {
    "task_id": "HumanEval/0",
    "prompt": "\ndef half(x):\n    '''Half of x.'''\n",
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "base_input": [[1.0], [3.0]],
    "plus_input": [[0.1], [1e9]],
    "atol": 0,
}
COPY = {
    **HALF,
    "task_id": "HumanEval/1",
    "prompt": "def double(x):\n",
    "entry_point": "double",
    "canonical_solution": "    return x + x\n",
    "base_input": [[[1]], [[]]],
    "plus_input": [[[2, 3]]],
}
ROOT = {
    **HALF,
    "task_id": "HumanEval/32",
    "prompt": "def find_zero(xs):\n",
    "entry_point": "find_zero",
    "canonical_solution": "    return 1.0 if len(xs) > 2 else -xs[0] / xs[1]\n",
    "base_input": [[[1, 2]]],
    "plus_input": [[[-1.0, 0.0, 1.0, 1e-9]]],
    "atol": 1e-4,
}
CASES = [
    (HALF, "    return x / 2\n", True),
    (HALF, "    return x / 2 + 1e-8\n", True),
    (HALF, "    return x / 2 + 1e-5\n", False),
    (HALF, "    return x / 2 if x != 0.1 else 0.0\n", False),
    (HALF, "    import numpy\n    return numpy.float64(x / 2)\n", True),
    (HALF, "    import numpy\n    return numpy.float64(x / 2 + 1e-8)\n", False),
    (HALF, "    print(input('?'))\n", False),
    (HALF, "    raise SystemExit(0)\n", False),
    (HALF, "    while x == 0.1:\n        pass\n    return x / 2\n", False),
    (COPY, "    return x * 2\n", True),
    (COPY, "    x.extend(list(x))\n    return x\n", True),
    (COPY, "    return tuple(x * 2)\n", False),
    (COPY, "    return x\n", False),
    (ROOT, "    return 1.0 if len(xs) > 2 else -xs[0] / xs[1]\n", True),
    (ROOT, "    return -1.0 if len(xs) > 2 else -xs[0] / xs[1]\n", True),
    (ROOT, "    return float('nan')\n", False),
]


def write(folder: Path, rows: list[dict[str, object]]) -> Evaluate:
    """The command that evaluates a file of `rows`."""
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Evaluate(problems=str(path))


def test_all_inputs_decide(tmp_path: Path) -> None:
    problems = {problem["task_id"]: problem for problem in load_problems(write(tmp_path, [HALF, COPY, ROOT]))}
    assert problems["HumanEval/0"]["prompt"] == "def half(x):\n    '''Half of x.'''\n"
    sources = [build_program(problems[str(row["task_id"])], completion) for row, completion, _ in CASES]
    passed = [outcome.passed for outcome in run_programs(sources, Limits(seconds=300, sandbox=ALLOWED))]
    assert [case for case, result in zip(CASES, passed, strict=True) if result is not case[2]] == []


def test_the_hubs_form_brings_its_own_test(tmp_path: Path) -> None:
    row = {name: HALF[name] for name in ("task_id", "prompt", "entry_point", "canonical_solution")}
    test = "def check(candidate):\n    assert candidate(1.0) == 0.5\n"
    (problem,) = load_problems(write(tmp_path, [{**row, "test": test}]))
    sources = [build_program(problem, f"    return x / {divisor}\n") for divisor in (2, 3)]
    assert [outcome.passed for outcome in run_programs(sources, Limits(seconds=300, sandbox=ALLOWED))] == [True, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"base_input": [1]}, "base_input is no list of lists"), ({"atol": None}, "atol=None is no number")],
)
def test_what_is_wrong_with_a_problem(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_problems(write(tmp_path, [{**HALF, **change}]))
