"""GPT-2's byte-level BPE, CodeGen's, with tokens for runs of spaces and tabs, and CodeGen2's, for infilling too.

CodeGen (arXiv 2203.13474) gives runs of 31 to 2 spaces the ids 50257 to 50286 and runs of 9 to 2 tabs 50287 to 50294.
Text encodes to a special token only where the caller allows it: "<|endoftext|>" inside of a document becomes ordinary
tokens, where transformers' CodeGenTokenizer gives 50256 and would let a file end a document. Everything else is the
same.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer

from model.tokenizer.codegen2 import CODEGEN2, FIRST_MASK
from model.tokenizer.special import TEMPLATE_FILE, AllowedSpecial, encode_with_special, new_tokens
from model.tokenizer.tiktoken_bpe import tiktoken_encode

EOS = "<|endoftext|>"
WHITESPACE = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # the second as OpenAI released them
FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
    *(name for pair in PAIRS for name in pair),
]
FILLER = "<|unused_{}|>"  # the library numbers added tokens without gaps, so these take the ids that a file skips
MOST_FILLERS = 10_000  # a larger gap is a damaged file


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print stand for themselves, the others for the characters from U+0100."""
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + n): byte for n, byte in enumerate(others)}


class GPT2Tokenizer:
    """A byte-level BPE with added tokens, read through a table of each token's bytes."""

    def __init__(self, backend: BackendTokenizer, eos: str = EOS, chat_template: str | None = None) -> None:
        eos_id = backend.token_to_id(eos)
        if eos_id is None:
            raise ValueError(f"it has no token {eos}")
        backend.encode_special_tokens = True
        self._backend, self._eos, self.eos_text, self.chat_template = backend, eos_id, eos, chat_template
        alphabet, added = byte_of_character(), backend.get_added_tokens_decoder()
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.special_tokens = {one.content: token for token, one in sorted(added.items()) if one.special}
        self._bytes: list[bytes] = [b""] * self.vocab_size
        for text, token in backend.get_vocab(with_added_tokens=True).items():
            if token >= self.vocab_size:
                raise ValueError(f"its {self.vocab_size} tokens leave gaps below id {token}")
            if token in added:
                self._bytes[token] = b"" if token == self._eos else text.encode()
            else:
                self._bytes[token] = bytes(alphabet[character] for character in text)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read tokenizer.json, or a vocabulary and its merges under either of their names.

        Errors: `OSError`, `ValueError` or `KeyError` for files that are missing or hold something else.
        """
        backend = _backend(folder)
        if not isinstance(backend.model, models.BPE) or backend.normalizer is not None or backend.model.byte_fallback:
            raise ValueError("it is no byte-level BPE")
        return cls(backend, _eos(folder), _chat_template(folder))

    @property
    def eos(self) -> int:
        """Id of `<|endoftext|>`."""
        return self._eos

    @property
    def kind(self) -> str:
        """Plain gpt2, codegen with its whitespace tokens, or codegen2 with those for infilling too."""
        if FIRST_MASK in self.special_tokens:
            return "codegen2"
        return "codegen" if self.has_whitespace else "gpt2"

    @property
    def has_whitespace(self) -> bool:
        """Whether it has CodeGen's whitespace tokens."""
        return self._backend.token_to_id(WHITESPACE[0]) is not None

    def with_whitespace(self) -> Self:
        """This tokenizer with CodeGen's whitespace tokens after its own; unchanged where it has them."""
        if self.has_whitespace:
            return self
        backend = BackendTokenizer.from_str(self._backend.to_str())
        backend.add_tokens([AddedToken(text, normalized=True) for text in WHITESPACE])
        return type(self)(backend, self.eos_text, self.chat_template)

    def with_special(self, tokens: Sequence[str], chat_template: str | None = None) -> Self:
        """See `model.tokenizer.Tokenizer`."""
        backend = BackendTokenizer.from_str(self._backend.to_str())
        missing = new_tokens(tokens, self.special_tokens, backend.token_to_id)
        backend.add_special_tokens([AddedToken(text, normalized=False) for text in missing])
        return type(self)(backend, self.eos_text, chat_template or self.chat_template)

    def with_infilling(self) -> Self:
        """This tokenizer with CodeGen2's tokens for infilling after its own; unchanged where it has them."""
        if FIRST_MASK in self.special_tokens:
            return self
        backend = BackendTokenizer.from_str(self._backend.to_str())
        backend.add_special_tokens([AddedToken(text, normalized=False) for text in CODEGEN2])
        return type(self)(backend, self.eos_text, self.chat_template)

    def encode(self, text: str, allowed_special: AllowedSpecial = ()) -> list[int]:
        """Ids of `text`; see `model.tokenizer.Tokenizer`."""
        text.encode()
        return encode_with_special(text, self.special_tokens, allowed_special, self._encode_ordinary)

    @cached_property
    def _encode_ordinary(self) -> Callable[[str], list[int]]:
        """tiktoken's function where it gives the same ids; made at the first text, as it takes a moment."""
        added = {token: one.content for token, one in self._backend.get_added_tokens_decoder().items()}
        runs = {text: token for token, text in added.items() if text not in self.special_tokens}
        if not runs or set(runs) == set(WHITESPACE):
            ordinary = {token: text for token, text in enumerate(self._bytes) if token not in added}
            fast = tiktoken_encode(self._backend, ordinary, runs)
            if fast is not None:
                return fast
        return lambda text: list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`."""
        return b"".join([self._bytes[token] for token in ids]).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for."""
        return self._bytes[token]

    def save(self, folder: Path) -> None:
        """Write the files that `load` and transformers read."""
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        self._backend.model.save(str(folder))  # vocab.json and merges.txt
        added = {
            str(token): {
                "content": one.content,
                "lstrip": one.lstrip,
                "normalized": one.normalized,
                "rstrip": one.rstrip,
                "single_word": one.single_word,
                "special": one.special,
            }
            for token, one in sorted(self._backend.get_added_tokens_decoder().items())
        }
        config = {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "bos_token": self.eos_text,
            "clean_up_tokenization_spaces": False,
            "eos_token": self.eos_text,
            "tokenizer_class": "CodeGenTokenizer" if self.has_whitespace else "GPT2Tokenizer",
            "unk_token": self.eos_text,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        if self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(self.chat_template)


def _backend(folder: Path) -> BackendTokenizer:
    if (folder / "tokenizer.json").is_file():
        try:
            content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            for one in content["added_tokens"]:
                one["special"] = one["special"] or one["content"] in CODEGEN2
            content["added_tokens"] = _without_gaps(content["added_tokens"], len(content["model"]["vocab"]))
            return _numbered(BackendTokenizer.from_str(json.dumps(content)), content["added_tokens"])
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"tokenizer.json: {error}") from None
    for vocabulary, merges in PAIRS:
        if (folder / vocabulary).is_file():
            lines = (folder / merges).read_text(encoding="utf-8").split("\n")
            pairs = [(one, other) for one, _, other in (line.partition(" ") for line in lines[1:]) if other]
            try:
                backend = BackendTokenizer(
                    models.BPE(json.loads((folder / vocabulary).read_text(encoding="utf-8")), pairs)
                )
            except Exception as error:
                raise ValueError(f"{vocabulary} and {merges}: {error}") from None
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            return _with_added_tokens(backend, folder)
    raise FileNotFoundError(f"there is no tokenizer.json, {', no '.join(' with '.join(pair) for pair in PAIRS)}")


def _with_added_tokens(backend: BackendTokenizer, folder: Path) -> BackendTokenizer:
    """Add the tokens that are not in the vocabulary's file, in the order of their ids."""
    backend.add_special_tokens([AddedToken(_eos(folder), normalized=True)])
    special, ids = _special(folder) | set(CODEGEN2), _json(folder / "added_tokens.json")
    listed = [{"id": token, "content": text, "special": text in special} for text, token in ids.items()]
    added = _without_gaps(listed, backend.get_vocab_size(with_added_tokens=True))
    for one in added:
        add = backend.add_special_tokens if one["special"] else backend.add_tokens
        add([AddedToken(one["content"], normalized=True)])
    return _numbered(backend, added)


def _without_gaps(added: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Added tokens, as tokenizer.json lists them, by id, with a filler for each id from `first` on that none has."""
    ids = {one["id"] for one in added}
    gaps = [token for token in range(first, min(max(ids, default=0), first + 10 * MOST_FILLERS)) if token not in ids]
    if len(gaps) > MOST_FILLERS:
        raise ValueError(f"its added tokens leave a gap of more than {MOST_FILLERS} ids from {gaps[0]} on")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    fillers = [{"id": token, "content": FILLER.format(token), "special": True, **flags} for token in gaps]
    return sorted([*added, *fillers], key=lambda one: one["id"])


def _numbered(backend: BackendTokenizer, added: list[dict[str, Any]]) -> BackendTokenizer:
    """`backend`, where its added tokens have the ids of the file. Errors: ValueError where they have others."""
    for one in added:
        if backend.token_to_id(one["content"]) != one["id"]:
            raise ValueError(
                f"{one['content']!r} has id {one['id']}, which is {backend.id_to_token(one['id'])!r} already"
            )
    return backend


def _eos(folder: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        eos = _json(folder / name).get("eos_token")
        if eos is not None:
            return _text(eos)
    return EOS


def _chat_template(folder: Path) -> str | None:
    if (folder / TEMPLATE_FILE).is_file():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    found = _json(folder / "tokenizer_config.json").get("chat_template")  # as older releases have it
    return found if isinstance(found, str) else None


def _special(folder: Path) -> set[str]:
    """The added tokens that the files beside added_tokens.json call special."""
    found: set[str] = set()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = _json(folder / name)
        found |= {_text(one) for one in content.get("additional_special_tokens") or ()}
        found |= {_text(one) for one in content.get("added_tokens_decoder", {}).values() if one.get("special")}
        found |= {_text(one) for key, one in content.items() if key.endswith("_token") and isinstance(one, str | dict)}
    return found


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
