"""Special tokens in a text: ordinary text unless the caller allows them, as in tiktoken's `allowed_special`."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Literal

from conf.errors import ConfigError

AllowedSpecial = Collection[str] | Literal["all"]


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
