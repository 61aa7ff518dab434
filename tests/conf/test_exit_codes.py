"""Exit codes in words."""

import pytest

from conf.exit_codes import describe


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "code 1"),
        (128, "code 128"),
        (137, "code 137, killed by signal 9 (out of memory?)"),
        (247, "code 247, killed by signal 9 (out of memory?)"),
        (245, "code 245, killed by signal 11"),
        (255, "code 255"),
    ],
)
def test_codes_of_signals_name_them(code: int, words: str) -> None:
    assert describe(code) == words
