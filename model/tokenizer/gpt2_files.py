"""The files of a byte-level BPE, in any of the forms that GPT-2's, CodeGen's and CodeGen2's were released in.

A tokenizer is made of a vocabulary, merges and added tokens alone, as transformers makes its GPT2Tokenizer and
CodeGenTokenizer. The rest of a tokenizer.json would cut, pad or vary training text (`truncation`, `padding`, `dropout`,
an added token's `lstrip`), or add a BOS to a prompt that no training text had (`post_processor`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer

from model.tokenizer.codegen2 import CODEGEN2
from model.tokenizer.special import TEMPLATE_FILE

EOS = "<|endoftext|>"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # the second as OpenAI released them
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
FILES = [
    "tokenizer.json",
    *CONFIGS,
    "added_tokens.json",
    TEMPLATE_FILE,
    *(name for pair in PAIRS for name in pair),
]
FILLER = "<|unused_{}|>"  # the library numbers added tokens without gaps, so these take the ids that a file skips
MOST_FILLERS = 10_000  # a larger gap is a damaged file
# Of the model in tokenizer.json: they merge otherwise.
OTHER_MERGES = ("byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")


@dataclass(frozen=True)
class GPT2Files:
    """What a folder holds. for_transformers: keys of tokenizer_config.json that only transformers reads."""

    backend: BackendTokenizer
    eos: str = EOS
    chat_template: str | None = None
    for_transformers: Mapping[str, Any] = field(default_factory=dict)


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print stand for themselves, the others for the characters from U+0100."""
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + n): byte for n, byte in enumerate(others)}


def read_gpt2(folder: Path) -> GPT2Files:
    """Read tokenizer.json, or a vocabulary and its merges under either of their names.

    Errors: `OSError` for files that are missing, `ValueError` for those of another kind of tokenizer, and
    `AttributeError`, `KeyError` or `TypeError` for JSON of another shape.
    """
    eos = _setting(folder, "eos_token", EOS)
    vocabulary, merges, added = _whole(folder) if (folder / "tokenizer.json").is_file() else _parts(folder, eos)
    if eos in vocabulary and all(one["content"] != eos for one in added):
        added = [*added, {"id": vocabulary[eos], "content": eos, "special": True}]
    absent = byte_of_character().keys() - vocabulary.keys()
    if absent:
        raise ValueError(f"its vocabulary has no token for {len(absent)} of the 256 bytes, whose text would be lost")
    added = [
        {**one, "special": one["special"] or one["content"] in (eos, *CODEGEN2)}
        for one in _without_gaps(added, len(vocabulary))
    ]
    special = {one["content"] for one in added if one["special"]}
    return GPT2Files(
        _backend(vocabulary, merges, added), eos, _chat_template(folder), _for_transformers(folder, special)
    )


def _backend(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], added: list[dict[str, Any]]
) -> BackendTokenizer:
    """Errors: `ValueError` where the parts do not fit each other, or an added token would get another id."""
    try:
        backend = BackendTokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"its vocabulary and its merges: {error}") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [
            AddedToken(
                one["content"],
                single_word=one.get("single_word", False),
                normalized=one.get("normalized", True),
                special=one["special"],
            )
            for one in added
        ]
    )
    for one in added:
        if backend.token_to_id(one["content"]) != one["id"]:
            raise ValueError(
                f"{one['content']!r} has id {one['id']}, which is {backend.id_to_token(one['id'])!r} already"
            )
    return backend


Parts = tuple[dict[str, int], list[tuple[str, str]], list[dict[str, Any]]]  # vocabulary, merges, added tokens


def _whole(folder: Path) -> Parts:
    """Of tokenizer.json. Errors: `ValueError` where it cuts or merges words otherwise than GPT-2."""
    content = _json(folder / "tokenizer.json")
    model, words = content["model"], content.get("pre_tokenizer") or {}
    if model.get("byte_fallback"):
        raise ValueError(
            "its tokenizer.json is a sentencepiece tokenizer's, which is read from sentencepiece.model: copy that file "
            "beside it from the folder that it was made of; without tokenizer.json the weights go without a tokenizer"
        )
    plain = {
        "model": model.get("type", "BPE") == "BPE" and not any(model.get(key) for key in OTHER_MERGES),
        "normalizer": content.get("normalizer") is None,
        "pre_tokenizer": words.get("type") == "ByteLevel"
        and words.get("add_prefix_space") is False
        and words.get("use_regex", True),
    }
    other = [part for part, is_plain in plain.items() if not is_plain]
    if other:
        raise ValueError(
            f"the {other[0]} in its tokenizer.json is another than GPT-2's, so that text would not come back, or get "
            "other ids from transformers; GPT-2's has BPE, no normalizer, and ByteLevel with add_prefix_space false"
        )
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return model["vocab"], [(one, other) for one, other in merges], content["added_tokens"]


def _parts(folder: Path, eos: str) -> Parts:
    """Of the files that tokenizer.json was made of later: added tokens stand in files of their own."""
    found = [pair for pair in PAIRS if (folder / pair[0]).is_file()]
    if not found:
        raise FileNotFoundError(f"there is no tokenizer.json, {', no '.join(' with '.join(pair) for pair in PAIRS)}")
    vocabulary = _json(folder / found[0][0])
    lines = (folder / found[0][1]).read_text(encoding="utf-8").split("\n")
    merges = [(one, other) for one, _, other in (line.partition(" ") for line in lines[1:]) if other]
    decoder = _json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    ids = {_text(one): int(token) for token, one in decoder.items()} | _json(folder / "added_tokens.json")
    if eos not in vocabulary:
        ids.setdefault(eos, next(token for token in count(len(vocabulary)) if token not in ids.values()))
    special = _special(folder)
    return vocabulary, merges, [{"id": ids[text], "content": text, "special": text in special} for text in ids]


def _without_gaps(added: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Added tokens, as tokenizer.json lists them, by id, with a filler for each id from `first` on that none has."""
    ids = {one["id"] for one in added}
    gaps = [token for token in range(first, min(max(ids, default=0), first + 10 * MOST_FILLERS)) if token not in ids]
    if len(gaps) > MOST_FILLERS:
        raise ValueError(f"its added tokens leave a gap of more than {MOST_FILLERS} ids from {gaps[0]} on")
    fillers = [{"id": token, "content": FILLER.format(token), "special": True, "normalized": False} for token in gaps]
    return sorted([*added, *fillers], key=lambda one: one["id"])


def _setting(folder: Path, key: str, default: Any = None) -> Any:
    """A key's value in the files beside the vocabulary; of a token, its text."""
    found = [value for name in CONFIGS if (value := _json(folder / name).get(key)) is not None]
    return _text(found[0]) if found and key.endswith("_token") else found[0] if found else default


def _chat_template(folder: Path) -> str | None:
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    found = _setting(folder, "chat_template")  # as older releases have it
    return found if isinstance(found, str) else None


def _for_transformers(folder: Path, special: set[str]) -> dict[str, Any]:
    """How transformers pads and cuts a batch of prompts."""
    found = {key: _setting(folder, key) for key in ("model_max_length", "pad_token", "padding_side", "truncation_side")}
    if found["pad_token"] not in special:  # of another token transformers would make a special one
        del found["pad_token"]
    return {key: value for key, value in found.items() if value is not None}


def _special(folder: Path) -> set[str]:
    """The added tokens that the files beside added_tokens.json call special."""
    found: set[str] = set()
    for name in CONFIGS:
        content = _json(folder / name)
        decoder = content.get("added_tokens_decoder") or {}
        found |= {_text(one) for one in content.get("additional_special_tokens") or ()}
        found |= {_text(one) for one in decoder.values() if one.get("special")}
        found |= {_text(one) for key, one in content.items() if key.endswith("_token") and isinstance(one, str | dict)}
    return found


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none. Errors: `ValueError` where it holds something else."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds {json.dumps(content)[:40]}, where a JSON object is needed")
    return content
