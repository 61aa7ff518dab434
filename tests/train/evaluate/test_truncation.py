"""The paper's truncation, rule by rule."""

import pytest

from train.evaluate.truncation import truncate


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return x\n", "    return x\n"),
        ("", ""),
        ("a\nprint(1)\nb\nprint(2)\nc", "a\nprint(1)\nb\n"),  # the second print
        ("print(1)\n  print(2)\nxprint(3)\n", "print(1)\n  print(2)\nxprint(3)\n"),  # at the start of a line only
        ("a\ndef f():\n  1\ndef g():\n  2", "a\ndef f():\n  1\n"),  # the second def
        ("def f():\n  1\nprint(1)\ndef g():\n  2\nprint(2)", "def f():\n  1\nprint(1)\n"),  # both: the earlier
        ("print(1)\nprint(2)\ndef f():\n  1\ndef g():", "print(1)\n"),
        ("a\n# b", "a\n"),
        ("a # b\n  # c\n", "a # b\n  # c\n"),
        ("a<|endoftext|>b", "a"),
        ("a\n'''b", "a\n"),
        ('a\n"""b', "a\n"),
        ('a = """b"""', 'a = """b"""'),
        ("a\n\nb\n\n\nc", "a\n\nb"),
        ("a\n\n\nb\n# c", "a"),  # the earliest of them
        ("a\n# c\n\n\nb", "a\n"),
        ("# a", ""),
    ],
)
def test_where_a_completion_ends(completion: str, kept: str) -> None:
    assert truncate(completion) == kept
