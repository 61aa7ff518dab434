"""sentencepiece BPE (arXiv 1808.06226) with byte fallback, without loss: decode(encode(text)) == text for every text.

Three things that sentencepiece loses are handled here: it writes spaces as U+2581 and cannot tell the two apart, its
decoder drops and replaces characters, and its trainer learns no tabs.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined] # made when it is imported
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as BackendTokenizer

from conf.errors import ConfigError
from model.tokenizer.special import TEMPLATE_FILE, AllowedSpecial, encode_with_special, new_tokens

MODEL_FILE = "sentencepiece.model"
SPACE = "\u2581"  # how sentencepiece writes a space
TABS = ["\t" * count for count in range(1, 9)]  # the trainer uses the tab as its own mark, so tabs are given
UNKNOWN, EOS, FIRST_BYTE = 0, 1, 2
# Training sees words with the spaces, newline and indentation before them: pieces such as "\n        return" are
# learnt, pieces across words are not.
WORDS = re.compile(r"\s*\w+|\s*[^\s\w]+|\s+")
RESERVED_IN_TRAINING = "\0\u2581\u2585"
CHARACTER_COVERAGE = 0.9995  # of the text; rarer characters are spelt in bytes


class SentencePieceTokenizer:
    """A sentencepiece BPE model, read through a table of each piece's bytes."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, added: Sequence[str] = (), chat_template: str | None = None) -> None:
        """added: special tokens, whose ids are those after the model's."""
        self._model, self._added, self.chat_template = model, tuple(added), chat_template
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._bytes = [self._piece_bytes(token) for token in range(self._processor.get_piece_size())]
        control = [token for token in range(len(self._bytes)) if self._processor.is_control(token)]
        self.special_tokens = {self._processor.id_to_piece(token): token for token in control}  # </s> among them
        self.special_tokens |= {text: len(self._bytes) + place for place, text in enumerate(added)}
        self._bytes += [text.encode() for text in added]
        self._space_mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> Self:
        """Learn at most `vocab_size` pieces, bytes, eos and `special` tokens included; fewer where the texts are small.

        Errors: `ConfigError` for no text, or where the bytes alone do not fit in `vocab_size`.
        """
        smallest = FIRST_BYTE + 256 + len(TABS) + len(special) + 1
        if vocab_size < smallest:
            raise ConfigError(f"model.vocab_size={vocab_size} is too small for a tokenizer; use at least {smallest}")
        texts = list(texts)
        characters = _frequent_characters(texts, (vocab_size - smallest) // 2 + 1)
        if not characters:
            raise ConfigError("there is no text to train the tokenizer on")
        try:
            return cls(_train_model(_training_words(texts, characters), vocab_size, special))
        except RuntimeError as error:
            raise ConfigError(f"sentencepiece could not train: {' '.join(str(error).split())}") from None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote, also where transformers has written its part again.

        Errors: `OSError` for files that are missing, `ValueError` for a model of others, `RuntimeError` for a damaged
        one, and `KeyError` or `TypeError` for JSON of another shape.
        """
        content, template = (folder / MODEL_FILE).read_bytes(), folder / TEMPLATE_FILE
        first = cls(content).vocab_size
        _refuse_foreign(content)
        tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        added = [one["content"] for one in tokens if one["id"] >= first]
        return cls(content, added, template.read_text(encoding="utf-8") if template.is_file() else None)

    def with_special(self, tokens: Sequence[str], chat_template: str | None = None) -> Self:
        """See `model.tokenizer.Tokenizer`."""
        missing = new_tokens(tokens, self.special_tokens, self._ordinary_id)
        return type(self)(self._model, [*self._added, *missing], chat_template or self.chat_template)

    def _ordinary_id(self, text: str) -> int | None:
        token = self._processor.piece_to_id(text.replace(" ", SPACE))
        return None if self._processor.is_unknown(token) else int(token)

    def save(self, folder: Path) -> None:
        """Write the model, in sentencepiece's own format, and the same tokenizer in the form transformers reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self._model)
        # the library's own `save` raises no OSError where the disk is full
        (folder / "tokenizer.json").write_text(self.for_transformers().to_str(pretty=True), encoding="utf-8")
        config = {
            "added_tokens_decoder": {
                str(token): {"content": text, "special": True} for text, token in self.special_tokens.items()
            },
            "clean_up_tokenization_spaces": False,
            # CTranslate2 reads no tokenizer that lacks one of the three; GPT-2's are its end of text as well
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), self._processor.id_to_piece(EOS)),
            # the text '</s>' is ordinary text, as the others are, unless a template writes them
            "split_special_tokens": not (self._added or self.chat_template),
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        if self.chat_template is not None:
            (folder / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")

    def for_transformers(self) -> BackendTokenizer:
        """The same pieces and merges for the `tokenizers` library, with the same ids for every text.

        Pieces hold real spaces, so that U+2581 is a character like any other that has no piece. Merges come in the
        order of the piece they make, from every pair of pieces that makes it, as sentencepiece merges.
        """
        processor, size = self._processor, self._processor.get_piece_size()
        ordinary = [
            token
            for token in range(size)
            if not (processor.is_byte(token) or processor.is_control(token) or processor.is_unknown(token))
        ]
        texts = {token: processor.id_to_piece(token) for token in range(size)}
        texts |= {token: texts[token].replace(SPACE, " ") for token in ordinary}
        known = {texts[token] for token in ordinary} - set(TABS)
        merges = [
            (text[:cut], text[cut:])
            for text in (texts[token] for token in sorted(ordinary, key=processor.get_score, reverse=True))
            if text in known
            for cut in range(1, len(text))
            if text[:cut] in known and text[cut:] in known
        ]
        vocabulary = {text: token for token, text in texts.items()}
        backend = BackendTokenizer(
            models.BPE(vocabulary, merges, unk_token=texts[UNKNOWN], fuse_unk=False, byte_fallback=True)
        )
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        backend.add_tokens([AddedToken(tab, normalized=False) for tab in TABS])
        backend.add_special_tokens([AddedToken(text, normalized=False) for text in self.special_tokens])
        return backend

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self._bytes)

    @property
    def eos(self) -> int:
        """Id of the control piece `</s>`."""
        return EOS

    def encode(self, text: str, allowed_special: AllowedSpecial = ()) -> list[int]:
        """Ids of `text`; see `model.tokenizer.Tokenizer`."""
        text.encode()  # sentencepiece would silently replace lone surrogates
        return encode_with_special(text, self.special_tokens, allowed_special, self._encode_ordinary)

    def _encode_ordinary(self, text: str) -> list[int]:
        """Ids of `text`. U+2581 itself is encoded in bytes, since its piece means a space."""
        if SPACE not in text:
            return list(self._processor.encode(text))
        first, *others = text.split(SPACE)
        ids = list(self._processor.encode(first))
        for part in others:
            ids += self._space_mark
            ids += self._processor.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`."""
        return b"".join([self._bytes[token] for token in ids]).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for."""
        return self._bytes[token]

    def _piece_bytes(self, token: int) -> bytes:
        piece = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        return bytes(piece.replace(SPACE, " ").encode())


def _refuse_foreign(model: bytes) -> None:
    """Errors: `ValueError` for a model whose options are not those of `_train_model`, as far as they make the ids."""
    spec = ModelProto.FromString(model)
    trainer, normalizer = spec.trainer_spec, spec.normalizer_spec
    options = {
        "model_type": (trainer.ModelType.Name(trainer.model_type), "BPE"),
        "byte_fallback": (trainer.byte_fallback, True),
        "unk_id": (trainer.unk_id, UNKNOWN),
        "eos_id": (trainer.eos_id, EOS),
        "user_defined_symbols": (list(trainer.user_defined_symbols), TABS),
        "normalization_rule_name": (normalizer.name, "identity"),
        "add_dummy_prefix": (normalizer.add_dummy_prefix, False),
        "remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, False),
        "escape_whitespaces": (normalizer.escape_whitespaces, True),
    }
    for name, (found, needed) in options.items():
        if found != needed:
            raise ValueError(
                f"{MODEL_FILE} was trained with {name}={found}, and {name}={needed} is needed: others lose text, or "
                "end documents with another token; data.tokenizer.path=null trains one"
            )


def _frequent_characters(texts: list[str], most: int) -> set[str]:
    """The characters that get a piece of their own: those that cover the text, `most` at most."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    left, kept = CHARACTER_COVERAGE * counts.total(), set()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]:
        if left <= 0:
            break
        kept.add(character)
        left -= count
    return kept


def _training_words(texts: Iterable[str], characters: set[str]) -> Iterator[str]:
    """Words of `texts`, without those that hold another character or one that the trainer keeps for itself."""
    characters = characters - set(RESERVED_IN_TRAINING)
    for text in texts:
        for word in WORDS.findall(text):
            if characters.issuperset(word):
                yield word


def _train_model(words: Iterator[str], vocab_size: int, special: Sequence[str]) -> bytes:
    """Train BPE: it is quick, and unlike the unigram model's expectations it does not depend on threads."""
    model = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": vocab_size,
        "hard_vocab_limit": False,
        "character_coverage": 1.0,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "split_by_whitespace": False,
        "split_by_unicode_script": False,
        "user_defined_symbols": TABS,
        "control_symbols": list(special),
        "unk_id": UNKNOWN,
        "eos_id": EOS,
        "bos_id": -1,
        "pad_id": -1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=words, model_writer=model, **options)
    return model.getvalue()
