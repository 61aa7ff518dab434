"""`-m` with `key=a,b`: every combination of the values, as in Hydra's multirun."""

import itertools

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from conf.errors import ConfigError


def combinations(words: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """(the words with one value each, the settings that vary with their values) of every combination, in order.

    Errors: `ConfigError` where no setting has several values, or Hydra cannot parse a word.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(words)
        choices = [
            list(override.sweep_string_iterator()) if override.is_sweep_override() else [None] for override in parsed
        ]
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    if not any(override.is_sweep_override() for override in parsed):
        raise ConfigError("-m makes one run of each value, and no setting has several; write key=a,b")
    keys = [override.get_key_element() for override in parsed]
    return [
        (
            [word if value is None else f"{key}={value}" for word, key, value in zip(words, keys, values, strict=True)],
            {key: value for key, value in zip(keys, values, strict=True) if value is not None},
        )
        for values in itertools.product(*choices)
    ]
