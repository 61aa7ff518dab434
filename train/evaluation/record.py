"""Files that an evaluation appends to, so that an interrupted one goes on where it was."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
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
