"""MTPB: slots, turns, and the last print against the expected output."""

from typing import Any

import pytest

from train.evaluate.mtpb import (
    PRINTED,
    after_turn,
    ended,
    is_right,
    problem_with,
    summarise,
    turns_of,
    watched,
)
from train.evaluate.sandbox import Limits, run_program

PROBLEM: dict[str, Any] = {
    "id": 1,
    "name": "double",
    "description": "",
    "category": "math",
    "prompts": ["Assign {A} to x.", "Print x times {B}."],
    "inputs": [{"A": 2, "B": "3"}, {"A": 5, "B": 1}],
    "outputs": [6, 5],
}


def test_slots_are_filled_with_the_inputs_of_the_case() -> None:
    assert turns_of(PROBLEM, 0, single=False) == ["# Assign 2 to x.\n", "# Print x times 3.\n"]
    assert turns_of(PROBLEM, 1, single=True) == ["# Assign 5 to x.\n# Print x times 1.\n"]


def test_a_turn_ends_where_the_paper_cuts() -> None:
    assert after_turn("# turn\n", "x = 2\n# next turn\n") == "# turn\nx = 2\n\n\n"
    assert ended("x = 2") is None and ended("x = 2\n# more") == "x = 2\n"


@pytest.mark.parametrize(
    ("program", "expected", "right"),
    [
        ("print(1)\nprint(6)", 6, True),
        ("print(6)\nprint(1)", 6, False),
        ("print(6.0)", 6, True),
        ("print('6')", 6, True),
        ("print(0.1 + 0.2)", 0.3, True),
        ("print(0.30001)", 0.3, False),
        ("print('a b')", "a b", True),
        ("print('a', 'c')", "a b", False),
        ("print([1, 2.0000000001])", [1, 2.0], True),
        ("import numpy as np\nprint(np.array([1, 2, 3]))", [1, 2, 3], True),
        ("import numpy as np\nprint(np.eye(2))", [[1.0, 0.0], [0.0, 1.0]], True),
        ("print((1, 2))", [1, 2], True),
        ("import numpy as np\nprint([np.float64(1.5), np.int64(2)])", [1.5, 2], True),
        ("import numpy as np\nprint({'a': np.True_})", {"a": True}, True),
        ("import sys\nprint(5)\nprint(6, file=sys.stdout)", 6, True),
        ("print({'a': 1})", {"a": 1}, True),
        ("print(True)", True, True),
        ("print('one\\ntwo')", "one\ntwo", True),
        ("print('x'); raise SystemExit", "x", False),
        ("x = 6", 6, False),
        ("import sys\nprint('6')\nprint('note', file=sys.stderr)", 6, True),
        ("print(6.7)", 6, False),
    ],
)
def test_the_last_print_is_compared(program: str, expected: object, right: bool) -> None:
    outcome = run_program(watched(program), Limits(seconds=10))
    assert (outcome.passed and is_right(outcome.output, expected)) is right


def test_nothing_printed_is_wrong() -> None:
    assert not is_right("", "") and is_right(f"{PRINTED}\n", "")


def test_rates_by_category_and_turns() -> None:
    others = [PROBLEM, {**PROBLEM, "id": 2, "category": "text"}, {**PROBLEM, "id": 3, "prompts": ["Print."]}]
    assert summarise(others, {1: 1.0, 2: 0.5, 3: 0.0}) == {
        "pass_rate": 0.5,
        "categories": {"math": 0.5, "text": 0.5},
        "turns": {"1": 0.0, "2": 0.75},
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outputs": [6]}, "2 inputs and 1 outputs; each case needs one of both"),
        ({"inputs": [1, 2]}, "inputs is no list of JSON objects"),
        ({"prompts": "x"}, "prompts is no list of text"),
        ({"prompts": []}, "it has no prompts"),
        ({"outputs": None}, "outputs is no list of values"),
        ({"max_gen_length": "a"}, "max_gen_length=a must be a whole number above 0"),
        ({"prompts": ["Assign {C} to x."]}, "no input has the name C of a prompt's slot"),
        ({}, None),
    ],
)
def test_what_is_wrong_with_a_problem(change: dict[str, Any], said: str | None) -> None:
    assert problem_with({**PROBLEM, **change}) == said
