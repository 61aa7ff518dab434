"""GPT-2's and CodeGen's ids by tiktoken, which merges five times as fast as `tokenizers`.

tiktoken merges the pair whose result has the lowest id, `tokenizers` the pair that stands first among the merges: the
same where ids grow with the merges, as they do in GPT-2's files. What is not of that form is left to `tokenizers`.
"""

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise

import tiktoken
from tokenizers import Tokenizer as BackendTokenizer

# How GPT-2 cuts a text into words before it merges: OpenAI's pattern, with possessive repeats, which do not backtrack.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
PATTERN = WORDS + r"|\s++$|\s+(?!\S)|\s"
# CodeGen's: runs of spaces and tabs, longest first from the left, are words of their own, and what is between them is
# cut as if each stretch were a text. SPACE: a character of white space that belongs to no run.
SPACE = r"(?:[^\S \t]| (?! )|\t(?!\t))"
PATTERN_WITH_RUNS = rf" {{2,31}}|\t{{2,9}}|{WORDS}|{SPACE}++(?=  |\t\t|$)|(?:{SPACE}(?=\s))++|\s"
LONGEST_SPACE = 100_000  # characters of white space in a row; tiktoken's matcher gives up on a million
NO_SPACE = re.compile(r"\S+")


def tiktoken_encode(
    backend: BackendTokenizer, token_bytes: Mapping[int, bytes], run_ids: Mapping[str, int]
) -> Callable[[str], list[int]] | None:
    """A function from text to the ids that `backend` gives it; None where tiktoken would give others.

    token_bytes: id -> bytes of the ordinary tokens. run_ids: white space with a token of its own -> id; all of
    CodeGen's, or none.
    """
    model = json.loads(backend.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    ids = [model["vocab"].get("".join(pair)) for pair in merges]
    ascending = None not in ids and all(first < second for first, second in pairwise(ids))
    if not ascending or len(token_bytes) != 256 + len(ids):
        return None
    ranks = {text: token for token, text in token_bytes.items()}
    ranks |= {
        text.encode(): token for text, token in run_ids.items()
    }  # no other word holds two spaces or tabs in a row
    pattern = PATTERN_WITH_RUNS if run_ids else PATTERN
    fast = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary

    def encode(text: str) -> list[int]:
        if len(text) > LONGEST_SPACE and max(map(len, NO_SPACE.split(text))) > LONGEST_SPACE:
            return list(backend.encode(text, add_special_tokens=False).ids)
        return fast(text)

    return encode
