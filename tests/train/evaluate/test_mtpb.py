"""MTPB: templates, turns, pass rates. tests/train/evaluate/test_mtpb_score.py has the scores."""

from typing import Any

import pytest

from train.evaluate.mtpb import find_error, mean_perplexity, render_turns, split_prompts, stop_turn, summarise

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
    assert render_turns(PROBLEM, 0) == ["# Assign 2 to x.\n", "# Print x times 3.\n"]
    assert render_turns(PROBLEM, 1, "single_turn") == ["# Assign 5 to x.\n# Print x times 1.\n"]


def test_prompts_are_templates_of_str_format() -> None:
    """Braces are written twice in the authors' file, and inputs and outputs need not be equally many."""
    braces = {**PROBLEM, "prompts": ["Assign {{'a': {A}}} to d, {A[0]}."], "inputs": [{"A": [7]}] * 3}
    assert render_turns(braces, 0) == ["# Assign {'a': [7]} to d, 7.\n"]
    assert find_error(braces) is None


def test_a_turn_ends_where_the_paper_cuts() -> None:
    assert stop_turn("x = 2") is None and stop_turn("x = 2\n# more") == "x = 2\n"


def test_a_program_is_its_prompts_and_completions() -> None:
    parts = split_prompts({"completions": ["x = 2\n", "print(6)"]}, render_turns(PROBLEM, 0))
    assert "".join(part for part, is_prompt in parts if is_prompt) == "# Assign 2 to x.\n# Print x times 3.\n"
    assert "".join(part for part, _ in parts) == (
        "# Import libraries.\n\nimport numpy as np\n\n# Assign 2 to x.\nx = 2\n\n\n# Print x times 3.\nprint(6)\n\n"
    )


def test_perplexities_are_means_over_problems() -> None:
    means = mean_perplexity({1: 0.5, 2: 0.0, 3: 0.1}, {1: [2.0, 4.0], 2: [10.0], 3: [1.0, 1.0]})
    assert means == {"all": 14 / 3, "solved": 2.0, "unsolved": 10.0}
    assert mean_perplexity({1: 0.0}, {1: [2.0]}) == {"all": 2.0, "unsolved": 2.0}
    measured = mean_perplexity({1: 1.0, 2: 0.0, 3: 0.0}, {1: [None], 2: [None, 3.0], 3: [5.0]})
    assert measured == {"all": 4.0, "solved": None, "unsolved": 4.0}


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
        ({"prompts": ["{}"]}, "a prompt is no template of str.format (Replacement index 0 out of range"),
        ({"prompts": ["Print {."]}, "a prompt is no template of str.format (expected '}' before end of string)"),
        ({"outputs": []}, "it has no outputs"),
        ({"outputs": [6]}, None),
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
    found = find_error({**PROBLEM, **change})
    assert found == said if said is None else said in (found or "")
