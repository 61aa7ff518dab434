"""Addresses and secrets are replaced; what only looks a bit like them is not."""

import pytest

from train.data.redact import around_a_mark, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to Jane.Doe+x@mail.corp.com, please", "write to <EMAIL>, please"),
        ("@decorator\ndef a(b): return b @ c.T", None),
        ("me@example.com", None),
        ("key AKIAIOSFODNN7ABCDEFG end", "key <SECRET> end"),
        ("ghp_" + "a1" * 18, "<SECRET>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n", "<SECRET>\n"),
        ('db_password = "correct-horse-battery"', 'db_password = "<SECRET>"'),
        ('"apiKey": "0123456789abcdef0123"', '"apiKey": "<SECRET>"'),
        ('password = os.environ["PASSWORD"]', None),
        ("risk-averse-and-quite-long-hyphenated-words-here", None),
    ],
)
def test_what_is_replaced(text, redacted):
    assert redact(text, ["emails", "secrets"]) == (redacted or text)


def test_only_what_is_asked_for():
    text = "a@b.org AKIAIOSFODNN7ABCDEFG"
    assert redact(text, ["emails"]) == "<EMAIL> AKIAIOSFODNN7ABCDEFG"
    assert redact(text, ["secrets"]) == "a@b.org <SECRET>"


def test_an_example_shows_the_mark_and_never_what_it_replaced():
    text = redact("x" * 900 + "\nsend it to a@b.org now", ["emails"])
    assert around_a_mark(text).endswith("send it to <EMAIL> now") and len(around_a_mark(text)) < 60
