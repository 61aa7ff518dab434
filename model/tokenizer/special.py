"""Special tokens in a text: ordinary text unless the caller allows them, as in tiktoken's `allowed_special`."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from conf.errors import ConfigError

TEMPLATE_FILE = "chat_template.jinja"  # of a tokenizer's folder, as transformers reads it
AllowedSpecial = Collection[str] | Literal["all"]


def new_tokens(asked: Sequence[str], special: Mapping[str, int], id_of: Callable[[str], int | None]) -> list[str]:
    """The tokens of `asked` that are no special tokens yet, each once.

    Errors: `ConfigError` for one that is white space or an ordinary token by `id_of`.
    """
    missing = [text for text in dict.fromkeys(asked) if text not in special]
    for text in missing:
        if not text.strip() or id_of(text) is not None:
            why = "is an ordinary token of this tokenizer" if text.strip() else "is white space"
            raise ConfigError(f"data.tokenizer.special_tokens: {text!r} {why}; choose another text for it")
    return missing


def encode_with_special(
    text: str, special: Mapping[str, int], allowed: AllowedSpecial, encode: Callable[[str], list[int]]
) -> list[int]:
    """Ids of `text` by `encode`, except for the special tokens in `allowed`, which get their own id where they occur.

    special: every special token of the tokenizer. Errors: `ConfigError` for an allowed token that is not among them.
    """
    names = special.keys() if allowed == "all" else set(allowed)
    unknown = sorted(names - special.keys())
    if unknown:
        raise ConfigError(
            f"allowed_special={unknown[0]} is no special token of this tokenizer; there is {', '.join(special)}"
        )
    if not names:
        return encode(text)
    longest_first = sorted(names, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)  # every second one is a special token
    return [
        token
        for place, part in enumerate(parts)
        for token in ([special[part]] if place % 2 else encode(part) if part else [])
    ]
