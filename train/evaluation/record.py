"""Files that an evaluation appends to, so that an interrupted one goes on where it was."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from conf.check import ConfigError

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The complete lines of a .jsonl file that was being written; a line that was cut off is dropped from it."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines() if line]


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add `rows` to a .jsonl file."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_problems(path: Path, keys: Iterable[str], check: Callable[[Row], str | None] = lambda row: None) -> list[Row]:
    """The problems in a .jsonl file, each with `keys`.

    check: what is wrong with a problem, None where nothing is. Errors: `ConfigError` naming the first line that is no
    problem.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON strings may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"problems={path} cannot be read ({error})") from None
    problems = []
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
        problems.append(problem)
    if not problems:
        raise ConfigError(f"problems={path} holds no problem")
    return problems


def seed_of(*parts: Any) -> int:
    """A seed of its own for each sample: the same on every machine, whatever was drawn before."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1
