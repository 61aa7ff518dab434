"""A place in a text that is to be filled in. Nothing here needs torch."""

from dataclasses import dataclass

from conf.errors import ConfigError
from model.tokenizer.codegen2 import FIRST_MASK


@dataclass(frozen=True)
class Gap:
    """What stands before and after the place."""

    prefix: str
    suffix: str


def gap_in(text: str) -> Gap:
    """The place that `<mask_1>` marks in `text`. Errors: `ConfigError` where it does not stand there once."""
    count = text.count(FIRST_MASK)
    if count != 1:
        raise ConfigError(f"infill= holds {FIRST_MASK} {count} times; write it once, where text is to be filled in")
    prefix, _, suffix = text.partition(FIRST_MASK)
    return Gap(prefix, suffix)
