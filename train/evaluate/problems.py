"""The problems of a benchmark, and the seed of each sample that is drawn for them."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conf.errors import ConfigError

Row = dict[str, Any]


def read_problems(path: Path, keys: Sequence[str], check: Callable[[Row], str | None] = lambda row: None) -> list[Row]:
    """The problems in a .jsonl or .jsonl.gz file, each with `keys`, of which the first names it.

    check: what is wrong with a problem, None where nothing is. Errors: `ConfigError` naming the first line that is no
    problem or one that was there before.
    """
    name = next(iter(keys))
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode().split("\n")  # not splitlines: JSON strings may hold U+2028
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"problems={path} cannot be read ({error})") from None
    problems: dict[str, Row] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            problem = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number} is no JSON ({error})") from None
        missing = [key for key in keys if not isinstance(problem, dict) or key not in problem]
        if missing:
            raise ConfigError(f"{path}:{number} is no problem: {', '.join(missing)} missing")
        wrong = check(problem)
        if wrong:
            raise ConfigError(f"{path}:{number}: {wrong}")
        if not isinstance(problem[name], str | int):
            raise ConfigError(f"{path}:{number}: {name} is neither text nor a whole number")
        if str(problem[name]) in problems:
            raise ConfigError(f"{path}:{number}: {name} {problem[name]} stands twice")
        problems[str(problem[name])] = problem
    if not problems:
        raise ConfigError(f"problems={path} holds no problem")
    return list(problems.values())


def seed_of(*parts: Any) -> int:
    """A seed of its own for each sample: the same on every machine, whatever was drawn before."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1
