"""Secrets are known by their variables' names and by their forms, and nothing else is hidden."""

import pytest

from conf.secrets import is_secret, redact


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "hf_token"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["HF_HOME", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PATH", "WANDB_BASE_URL"])
def test_names_of_others(name: str) -> None:
    assert not is_secret(name)


def test_values_and_forms_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef-canary")
    monkeypatch.setenv("OTHER_TOKEN", "no")
    text = "key 0123456789abcdef-canary, hf_abcdefghijklmnopqrst at https://me:word@host/x, no model, commit 4f0c2e1"
    assert redact(text) == "key [secret], [secret] at https://[secret]@host/x, no model, commit 4f0c2e1"
