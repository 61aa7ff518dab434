"""Prepared data as a person looks at it: `python -m train.data stats` and `inspect`."""

import json
from collections.abc import Iterator
from itertools import islice

import numpy

from train.data.loss_mask import ids_of
from train.data.prepare import PreparedData
from train.data.token_spans import open_tokens

SHOWN_DOCUMENTS, SHOWN_CHARACTERS = 3, 400
READ_TOKENS = 1 << 16  # of the file's beginning, in which documents to show are looked for


def statistics(data: PreparedData) -> Iterator[str]:
    """Each corpus's documents, bytes, tokens and languages, and what was left out with its first examples."""
    for key, files in data.corpora.items():
        for split in ("train", "validation"):
            documents, size, tokens = (getattr(files, f"{split}_{what}") for what in ("documents", "bytes", "tokens"))
            yield (
                f"{key} {split}: {documents:,} documents, {size:,} bytes, {tokens:,} tokens "
                f"({size / max(tokens, 1):.2f} bytes a token)"
            )
        total = sum(files.languages.values())
        by_tokens = sorted(files.languages.items(), key=lambda item: -item[1])
        shares = (f"{language} {tokens:,} ({tokens / total:.1%})" for language, tokens in by_tokens)
        yield f"{key} languages, in tokens to train on: {', '.join(shares)}"
        for reason, one in json.loads((data.directory / key / "dropped.json").read_text()).items():
            yield f"{key} left out, {reason}: {one['count']:,}, for example {'; '.join(one['examples'])}"


def inspection(data: PreparedData) -> Iterator[str]:
    """The first training documents of each corpus as the model reads them, with their place and language."""
    tokenizer = data.tokenizer()
    for key, files in data.corpora.items():
        with (data.directory / key / "manifest.jsonl").open() as lines:
            rows = (row for row in map(json.loads, lines) if row["split"] == "train")
            shown = list(islice(rows, SHOWN_DOCUMENTS))
        ids = open_tokens(files.train, files.dtype).read(0, READ_TOKENS)
        ends = numpy.flatnonzero(ids == tokenizer.eos)
        for number, row in enumerate(shown[: max(1, len(ends) - 1)]):
            end = int(ends[number + 1]) if number + 1 < len(ends) else len(ids)
            own = ids_of(ids[int(ends[number]) + 1 : end]).tolist()
            facts = (row["path"], row["language"], row["licence"], row["repository"], f"{row['bytes']:,} bytes")
            text = tokenizer.decode(own)
            cut = " ..." if len(text) > SHOWN_CHARACTERS else ""
            yield f"--- {key}: {', '.join(fact for fact in facts if fact)}\n{text[:SHOWN_CHARACTERS]}{cut}"
            yield f"    ids {', '.join(map(str, own[:12]))}{', ...' if len(own) > 12 else ''}"
