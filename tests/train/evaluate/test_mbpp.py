"""MBPP: prompts with three examples, and the asserts decide."""

import json
from pathlib import Path

import pytest

from conf.commands import Evaluate
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.mbpp import build_program, load_problems, stop_strings
from train.evaluate.sandbox import Limits, run_programs

ROWS = [
    {
        "task_id": task_id,
        "text": f"Write a function to add {task_id}.",
        "code": f"def add(x):\r\n    return x + {task_id}",
        "test_list": [f"assert add(1) == {task_id + 1}", f"assert add(-1) == {task_id - 1}", "assert add(0) == NUMBER"],
        "test_setup_code": f"NUMBER = {task_id}",
        "challenge_test_list": [],
    }
    for task_id in (2, 3, 4, 10, 11, 510, 511)
]


def write(folder: Path, rows: list[dict[str, object]]) -> Evaluate:
    """The command that evaluates a file of `rows`."""
    path = folder / "mbpp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Evaluate(problems=str(path))


def test_the_prompt_is_the_authors(tmp_path: Path) -> None:
    problems = load_problems(write(tmp_path, ROWS))
    assert [problem["task_id"] for problem in problems] == [11, 510]
    parts = problems[0]["prompt"].split("[DONE]\n\n")
    assert parts[0] == (
        "You are an expert Python programmer, and here is your task: Write a function to add 2. "
        "Your code should pass these tests:\n\nassert add(1) == 3\nassert add(-1) == 1\nassert add(0) == NUMBER\n"
        "[BEGIN]\ndef add(x):\n    return x + 2\n"
    )
    assert len(parts) == 4 and parts[3].endswith("[BEGIN]\n") and "add 11." in parts[3]
    assert stop_strings(problems[0]) == ("[DONE]",)


def test_the_sanitized_file_is_read_too(tmp_path: Path) -> None:
    rows = [{**row, "prompt": row["text"], "test_imports": ["import math"]} for row in ROWS]
    for row in rows:
        del row["text"], row["test_setup_code"]
    (problem, _) = load_problems(write(tmp_path, rows))
    assert "add 11." in problem["prompt"]
    assert build_program(problem, "x = 1").startswith("\nimport math\nx = 1\nassert add(1) == 12\n")


def test_every_assert_must_hold(tmp_path: Path) -> None:
    (problem, _) = load_problems(write(tmp_path, ROWS))
    completions = [
        "def add(x):\n    return x + 11\n",
        "def add(x):\n    return 12 if x == 1 else 10\n",
        "def add(x):\n    return x\n",
        "raise SystemExit\n",
        "def add(x:\n",
    ]
    outcomes = run_programs(
        [build_program(problem, completion) for completion in completions], Limits(seconds=300, sandbox=ALLOWED)
    )
    assert [outcome.passed for outcome in outcomes] == [True, False, False, False, False]


def test_files_without_examples_or_problems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks task_id 3, examples of the prompt"):
        load_problems(write(tmp_path, [row for row in ROWS if row["task_id"] != 3]))
    with pytest.raises(ConfigError, match="holds none of the problems 11 to 510"):
        load_problems(write(tmp_path, ROWS[:4]))
    with pytest.raises(ConfigError, match="test_list is no list of text"):
        load_problems(write(tmp_path, [{**ROWS[0], "test_list": "assert 1"}]))
