"""GPT-2's byte-level BPE, CodeGen's, with tokens for runs of spaces and tabs, and CodeGen2's, for infilling too.

CodeGen (arXiv 2203.13474) gives runs of 31 to 2 spaces the ids 50257 to 50286 and runs of 9 to 2 tabs 50287 to 50294.
Text encodes to a special token only where the caller allows it: "<|endoftext|>" inside of a document becomes ordinary
tokens, where transformers' CodeGenTokenizer gives 50256 and would let a file end a document. Everything else is the
same.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from tokenizers import AddedToken
from tokenizers import Tokenizer as BackendTokenizer

from model.tokenizer.codegen2 import CODEGEN2, FIRST_MASK
from model.tokenizer.gpt2_files import GPT2Files, byte_of_character, read_gpt2
from model.tokenizer.special import TEMPLATE_FILE, AllowedSpecial, encode_with_special, new_tokens
from model.tokenizer.tiktoken_bpe import tiktoken_encode

WHITESPACE = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]


class GPT2Tokenizer:
    """A byte-level BPE with added tokens, read through a table of each token's bytes."""

    def __init__(self, files: GPT2Files) -> None:
        backend, eos = files.backend, files.backend.token_to_id(files.eos)
        if eos is None:
            raise ValueError(f"it has no token {files.eos}")
        backend.encode_special_tokens = True
        self._files, self._backend, self._eos, self.chat_template = files, backend, eos, files.chat_template
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
        """Read any of the forms that `model/tokenizer/gpt2_files.py` knows. Errors: as there."""
        return cls(read_gpt2(folder))

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
        return self._with([AddedToken(text, normalized=True) for text in WHITESPACE])

    def with_infilling(self) -> Self:
        """This tokenizer with CodeGen2's tokens for infilling after its own; unchanged where it has them."""
        if FIRST_MASK in self.special_tokens:
            return self
        return self._with([AddedToken(text, normalized=False, special=True) for text in CODEGEN2])

    def with_special(self, tokens: Sequence[str], chat_template: str | None = None) -> Self:
        """See `model.tokenizer.Tokenizer`."""
        missing = new_tokens(tokens, self.special_tokens, self._backend.token_to_id)
        return self._with([AddedToken(text, normalized=False, special=True) for text in missing], chat_template)

    def _with(self, added: list[AddedToken], chat_template: str | None = None) -> Self:
        backend = BackendTokenizer.from_str(self._backend.to_str())
        backend.add_tokens(added)
        template = chat_template or self.chat_template
        return type(self)(replace(self._files, backend=backend, chat_template=template))

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
        whole = self._backend.to_str(pretty=True)
        model = json.loads(whole)["model"]
        vocabulary = json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":"))
        merges = "".join(f"{one} {other}\n" for one, other in model["merges"])
        # the library's own `save` raises no OSError where the disk is full
        (folder / "tokenizer.json").write_text(whole, encoding="utf-8")
        (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
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
            "bos_token": self._files.eos,
            "clean_up_tokenization_spaces": False,
            "eos_token": self._files.eos,
            "tokenizer_class": "CodeGenTokenizer" if self.has_whitespace else "GPT2Tokenizer",
            "unk_token": self._files.eos,
            **self._files.for_transformers,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        if self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")
