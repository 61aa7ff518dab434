"""Scores in the sandbox, as the authors' scripts decide them."""

from typing import Any

import pytest

from tests.train.evaluate.cases import ALLOWED
from train.evaluate.mtpb import build_program
from train.evaluate.sandbox import Limits, run_programs
from train.evaluate.scores import print_last_value

NUMPY = "import numpy as np\n"
CASES: list[tuple[str, Any, bool]] = [
    ("print(1)\nprint(6)", 6, True),
    ("print(6)\nprint(1)", 6, False),
    ("6", 6, True),
    ("x = 6", 6, True),
    ("x: int", 6, False),
    ("print(6)\nfor i in range(3): pass", 6, True),
    ("print(6)\nraise ValueError", 6, True),
    ("print(6)\nprint(1 / 0)", 6, True),
    ("print(6)\nexit()", 6, True),
    ("print(6)\nimport sys; sys.exit(0)", 6, False),
    ("print(6.7)", 6, True),
    ("print('6')", 6, True),
    ("print(0.1 + 0.2)", 0.3, True),
    ("print(0.30001)", 0.3, False),
    ("print('a b')", "a b", True),
    ("print('a', 'c')", "a", True),
    ("print()", "", False),
    ("print(True)", True, True),
    ("print('True')", True, True),
    ("print(1)", True, False),
    ("print([1, 2.0000000001])", [1, 2.0], False),
    (NUMPY + "print(np.array([1, 2, 3]))", [1, 2, 3], True),
    (NUMPY + "print(np.array(['a', 'b']))", ["a", "b"], True),
    (NUMPY + "print(np.eye(2))", [[1.0, 0.0], [0.0, 1.0]], True),
    (NUMPY + "print(np.float32(6))", 6, True),
    ("print((1, 2))", [1, 2], True),
    ("print([(1, 2), (3, 4)])", [[1, 2], [3, 4]], True),
    ("print({'a': 1})", {"a": 1}, False),
    ("print(None)", None, False),
    ("print_stack = [{'args': (6,)}]\nif True: pass", 6, True),
    ("print = str\nprint(6)", 6, False),
    ("print(6", 6, False),
    ("print(6)\nwhile True: pass", 6, True),
    ("while True: pass\nprint(6)", 6, False),
    ("import os\nos.getcwd()\nprint(6)", 6, False),
    ("import os\nos.write(63, b'{\"value\": null}\\n')\nos._exit(0)", 6, False),
    ("import __main__\n__main__.is_gold = __main__.score_mtpb = lambda *words: True\nprint(7)", 6, False),
    ("class Any(int):\n    __eq__ = lambda self, other: True\nprint([Any(7)])", [6], False),
]


def test_the_last_prints_value_is_compared() -> None:
    sources = [build_program(program, gold, seconds=3.0) for program, gold, _ in CASES]
    passed = [outcome.passed for outcome in run_programs(sources, Limits(seconds=300, sandbox=ALLOWED))]
    wrong = [case for case, result in zip(CASES, passed, strict=True) if result is not case[2]]
    assert wrong == []


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("f(2)", "print(f(2))"),
        ("a = b = 2", "a = b = print(2)"),
        ("printer(2)  # kept", "printer(2)  # kept"),
        ("x = printed(2)", "x = printed(2)"),
        ("x.print(2)", "print(x.print(2))"),
        ("def f(): pass", "def f(): pass"),
        ("", ""),
        ("f(", "f("),
    ],
)
def test_the_last_value_is_printed(program: str, printed: str) -> None:
    assert print_last_value(program) == printed
