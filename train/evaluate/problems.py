"""Reads the problems of a benchmark, and derives the seed of each sample."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from conf.errors import ConfigError, reason
from conf.sources import is_hub_name

Problem = dict[str, Any]  # one problem of a benchmark, as its authors' file has it


def read_problems(
    source: str,
    keys: Sequence[str],
    find_error: Callable[[Problem], str | None] = lambda problem: None,
    subsets: Sequence[str] = (),
    id_keys: int = 1,
) -> list[Problem]:
    """The problems of a .jsonl, .jsonl.gz or .json file, or of a data set on the hub.

    keys: what each problem must have; the first `id_keys` of them identify it. find_error: what is wrong with a
    problem, None where nothing is. subsets: the configurations of the data set on the hub. Errors: `ConfigError` that
    names the first row that is no problem, or that has the id of an earlier one.
    """
    problems: dict[str, Problem] = {}
    for place, problem in _read_file(Path(source)) if Path(source).is_file() else _read_hub(source, subsets):
        missing = [key for key in keys if not isinstance(problem, dict) or key not in problem]
        if missing:
            raise ConfigError(f"{place} is no problem: {', '.join(missing)} missing")
        error = find_error(problem)
        if error:
            raise ConfigError(f"{place}: {error}")
        for key in keys[:id_keys]:
            if not isinstance(problem[key], str | int):
                raise ConfigError(f"{place}: {key} is neither text nor a whole number")
        name = " ".join(str(problem[key]) for key in keys[:id_keys])
        if name in problems:
            raise ConfigError(f"{place}: {' '.join(keys[:id_keys])} {name} stands twice")
        problems[name] = problem
    if not problems:
        raise ConfigError(f"problems={source} holds no problem")
    return list(problems.values())


def problems_digest(problems: Sequence[Problem]) -> str:
    """Identifies the content of `problems`, wherever they were read from."""
    return hashlib.sha256(json.dumps(problems, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sample_seed(*parts: Any) -> int:
    """The seed of the sample that `parts` name: the same on every machine, independent of what else is sampled."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def _read_file(path: Path) -> Iterable[tuple[str, Problem]]:
    """(place, row) of each row of a JSON-lines file or of a JSON list."""
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"problems={path} cannot be read ({reason(error)})") from None
    # Not splitlines: JSON strings may hold U+2028.
    lines = [(1, text)] if path.suffix == ".json" else enumerate(text.split("\n"), start=1)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number} is no JSON ({error})") from None
        if path.suffix == ".json" and isinstance(row, list):
            yield from ((f"{path}[{index}]", one) for index, one in enumerate(row))
        else:
            yield f"{path}:{number}", row


def _read_hub(name: str, subsets: Sequence[str]) -> Iterable[tuple[str, Problem]]:
    """(place, row) of each row in all splits of a data set on the hub."""
    if not is_hub_name(name):
        raise ConfigError(f"problems={name} is not a file, and names on the hub are written owner/name")
    import datasets  # seconds to import, and only this source needs it

    for subset in subsets or (None,):
        try:
            splits = datasets.load_dataset(name, subset)
        except Exception as error:  # datasets, the HTTP client and Arrow each raise types of their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(f"problems={name} is no file and cannot be read from the hub: {reason}") from None
        for split, rows in splits.items():
            yield from ((f"{name}/{split}:{number}", row) for number, row in enumerate(rows, start=1))
