"""Splitting a text at the special tokens that are allowed."""

import pytest

from conf.errors import ConfigError
from model.tokenizer.special import encode_with_special, new_tokens

SPECIAL = {"<a>": 1000, "<a><b>": 1001, "[x|y]": 1002}


def ordinary(text: str) -> list[int]:
    assert text, "an empty text has no tokens to ask for"
    return [ord(character) for character in text]


@pytest.mark.parametrize(
    ("text", "allowed", "expected"),
    [
        ("p<a>q", (), [*ordinary("p<a>q")]),
        ("p<a>q", "all", [ord("p"), 1000, ord("q")]),
        ("<a><b><a>", "all", [1001, 1000]),  # the longest
        ("<a><b>", ["<a>"], [1000, *ordinary("<b>")]),
        ("[x|y]x", {"[x|y]"}, [1002, ord("x")]),  # no pattern
    ],
)
def test_only_allowed_tokens_get_their_ids(text: str, allowed: list[str], expected: list[int]) -> None:
    assert encode_with_special(text, SPECIAL, allowed, ordinary) == expected


def test_an_unknown_token_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"allowed_special=<c> is no special token of this tokenizer; there is <a>, "):
        encode_with_special("x", SPECIAL, ["<c>"], ordinary)


def test_new_tokens_are_those_that_are_missing():
    assert new_tokens(["<x>", "<a>", "<x>"], SPECIAL, {"y": 3}.get) == ["<x>"]
    for asked, why in (("y", "is an ordinary token"), (" ", "is white space")):
        with pytest.raises(ConfigError, match=f"special_tokens: '{asked}' {why}"):
            new_tokens([asked], SPECIAL, {"y": 3}.get)
