"""Text to token ids and back, without loss: decode(encode(text)) == text for every text.

What may enter: tokenizers, one kind a file, and the functions that open or train one. A saved tokenizer is a folder
that `transformers.AutoTokenizer` loads as well. Nothing here needs torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from conf.errors import ConfigError
from model.hub import local_folder
from model.tokenizer import gpt2_files
from model.tokenizer.gpt2 import GPT2Tokenizer
from model.tokenizer.sentencepiece import MODEL_FILE, SentencePieceTokenizer
from model.tokenizer.special import AllowedSpecial

FILES = (MODEL_FILE, *gpt2_files.FILES)  # that a tokenizer of any kind may have
KINDS = ("codegen", "codegen2", "gpt2", "sentencepiece")


class Tokenizer(Protocol):
    """The interface of every tokenizer."""

    @property
    def kind(self) -> str:
        """Its value of data.tokenizer.kind."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids; the model may have more rows."""
        ...

    @property
    def eos(self) -> int:
        """Id that ends a document."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text and id of each special token, eos among them."""
        ...

    @property
    def chat_template(self) -> str | None:
        """How conversations become text, in Jinja as Hugging Face's `chat_template` (model/tokenizer/chat.py)."""
        ...

    def with_special(self, tokens: Sequence[str], chat_template: str | None = None) -> Self:
        """This tokenizer with special tokens, and a template, more: those it lacks get the ids after its own.

        Errors: `ConfigError` for a token that is an ordinary one, or white space.
        """
        ...

    def encode(self, text: str, allowed_special: AllowedSpecial = ()) -> list[int]:
        """Ids of `text`, no eos added. Special tokens are ordinary text, except for those in `allowed_special`.

        Errors: `UnicodeEncodeError` for lone surrogates, which UTF-8 cannot hold; `ConfigError` for an allowed token
        that the tokenizer does not have.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8, as a cut sequence has them, become U+FFFD."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one id; empty for eos."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` reads."""
        ...


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`, or released in it. Errors: `ConfigError` where there is none."""
    try:
        if (folder / MODEL_FILE).is_file():
            return SentencePieceTokenizer.load(folder)
        return GPT2Tokenizer.load(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder} holds no tokenizer ({error})") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} holds no tokenizer (its JSON files are not as a tokenizer's: {type(error).__name__} {error})"
        ) from None


def open_tokenizer(kind: str, source: str, vocab_size: int) -> Tokenizer:
    """The finished tokenizer of `kind` from `source`, a folder or a name on the hub, for a model of `vocab_size` rows.

    codegen adds CodeGen's whitespace tokens where the folder is plain GPT-2's, codegen2 those for infilling too; gpt2
    takes the NL models'.
    Errors: `ConfigError` for an unknown kind, a folder of another kind, or more ids than the model has rows.
    """
    if kind not in KINDS:
        raise ConfigError(f"data.tokenizer.kind={kind} does not exist; there is {', '.join(KINDS)}")
    tokenizer = load_tokenizer(tokenizer_folder(source))
    if isinstance(tokenizer, SentencePieceTokenizer) != (kind == "sentencepiece"):
        raise ConfigError(
            f"data.tokenizer.path={source} holds a {tokenizer.kind} tokenizer, not data.tokenizer.kind={kind}"
        )
    if kind in ("codegen", "codegen2") and isinstance(tokenizer, GPT2Tokenizer):
        tokenizer = tokenizer.with_whitespace()
        tokenizer = tokenizer.with_infilling() if kind == "codegen2" else tokenizer
    elif kind == "gpt2" and isinstance(tokenizer, GPT2Tokenizer) and tokenizer.has_whitespace:
        raise ConfigError(
            f"data.tokenizer.path={source} has CodeGen's whitespace tokens; use data.tokenizer.kind=codegen"
        )
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"model.vocab_size={vocab_size} has no room for the {tokenizer.vocab_size} ids of "
            f"data.tokenizer.path={source}; use at least {tokenizer.vocab_size}"
        )
    return tokenizer


def tokenizer_folder(source: str, asked: str = "data.tokenizer.path") -> Path:
    """The folder of tokenizer files that `source` stands for: itself, its tokenizer/, its run's, or the hub's copy.

    asked: the setting, for messages. Errors: `ConfigError` where there is no such folder.
    """
    folder = local_folder(source, list(FILES), asked)
    run = folder.absolute().parent.parent  # of a stage
    places = [folder / "tokenizer", *([run / "tokenizer"] if folder.absolute().parent.name == "stages" else [])]
    return next((place for place in places if place.is_dir()), folder)


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files of a tokenizer in `folder`."""
    return any((folder / name).is_file() for name in (MODEL_FILE, "tokenizer.json", "vocab.json", "encoder.json"))


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer of `kind` for `texts`, with at most `vocab_size` ids, `special` tokens besides eos among them.

    Errors: `ConfigError` for another kind.
    """
    if kind != SentencePieceTokenizer.kind:
        known = "needs data.tokenizer.path=..." if kind in KINDS else f"does not exist; there is {', '.join(KINDS)}"
        raise ConfigError(f"data.tokenizer.kind={kind} {known}")
    return SentencePieceTokenizer.train(texts, vocab_size, special)
