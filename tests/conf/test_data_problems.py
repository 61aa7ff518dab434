"""Every refusal of the data's settings names the setting and a value that works."""

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "said", "instead"),
    [
        (
            "data.redact=[email]",
            "data.redact=email is not known; use emails or",
            "data.redact=[emails,secrets]",
        ),
        *(
            (f"{key}=0", f"{key}=0 must be at least 1", f"{key}=1")
            for key in (
                "data.workers",
                "data.validation_bytes",
                "data.tokenizer.train_bytes",
                "data.corpora.nl.max_bytes",
            )
        ),
        ('data.tokenizer.special_tokens=[""]', "holds an empty text", "data.tokenizer.special_tokens=[end]"),
        ("data.decontaminate_words=1", "decontaminate_words=1 must be at least 2", "data.decontaminate_words=2"),
        *(
            (
                f"data.validation_fraction={value}",
                f"data.validation_fraction={value} must be between 0 and 1",
                "data.validation_fraction=0.1",
            )
            for value in (0.0, 1.0)
        ),
        (
            "data.tokenizer.kind=codegen",
            "data.tokenizer.kind=codegen needs data.tokenizer.path=",
            "data.tokenizer.kind=sentencepiece",
        ),
        (
            "data.tokenizer.path=/nowhere",
            "data.tokenizer.path=/nowhere is no folder, and names on the hub",
            "data.tokenizer.path=owner/name",
        ),
        (
            "data.tokenizer.kind=gpt2",
            "kind=gpt2 needs data.tokenizer.path=",
            "data.tokenizer.kind=sentencepiece",
        ),
    ],
)
def test_refused_in_one_line_that_says_what_works(word: str, said: str, instead: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings([word])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    compose_settings([instead])
