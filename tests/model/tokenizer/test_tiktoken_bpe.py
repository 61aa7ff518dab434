"""tiktoken's ids are those of `tokenizers`, and so of transformers, for every text; or it is not used."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from model.tokenizer import open_tokenizer
from model.tokenizer.gpt2 import GPT2Tokenizer
from model.tokenizer.gpt2_files import EOS
from tests.gpt2 import released_gpt2, small_gpt2
from tests.model.tokenizer.test_sentencepiece import ANY_TEXT, TEXTS, TRAPS

HARD = [
    "",
    " ",
    "  ",
    "\t",
    "\t" * 20,
    " " * 70,
    "\n",
    "\r\n",
    "\u00a0",
    "\u2028",
    "\u3000 ",
    "'ll",
    "'LL",
    " 's",
    "é",
    "日本",
]
HARD += ["def f(x):\n", "    return", "0x1F", "١٢", "²", "_", "🙂", "e\u0301", EOS, "\x00", "\x85", "\x1c", "a" * 40]
PIECES = st.lists(st.sampled_from([*HARD, *TRAPS, *TEXTS]) | ANY_TEXT, max_size=8).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of this repository's own texts, in the form of GPT-2's files."""
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return small_gpt2(tmp_path_factory.mktemp("bpe"), [*TEXTS, *texts], 1500)


def by_tokenizers(tokenizer: GPT2Tokenizer, text: str) -> list[int]:
    return list(tokenizer._backend.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="module", params=["gpt2", "codegen"])
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> GPT2Tokenizer:
    return open_tokenizer(request.param, str(folder), 2000)


@given(PIECES)
def test_the_ids_are_those_of_tokenizers(tokenizer: GPT2Tokenizer, text: str) -> None:
    assert tokenizer._encode_ordinary.__module__ != "model.tokenizer.gpt2", "tiktoken's function is the one in use"
    assert tokenizer.encode(text) == by_tokenizers(tokenizer, text)


@pytest.mark.parametrize("kind", ["gpt2", "codegen"])
def test_the_released_merges_give_the_ids_of_transformers(tmp_path: Path, kind: str) -> None:
    tokenizer = open_tokenizer(kind, str(released_gpt2()), 51200)
    tokenizer.save(tmp_path)
    theirs, draw = AutoTokenizer.from_pretrained(tmp_path), random.Random(5)
    texts = [path.read_text() for path in sorted(Path(__file__).parents[3].glob("m*/**/*.py"))]
    texts += ["".join(draw.choices([*HARD, "x", " the", "1"], k=draw.randrange(60))) for _ in range(300)]
    for text in texts:
        assert tokenizer.encode(text) == theirs(text.replace(EOS, ""))["input_ids"] or EOS in text
        assert tokenizer.encode(text) == by_tokenizers(tokenizer, text)


def test_a_long_word_takes_no_time_of_its_square(tokenizer: GPT2Tokenizer) -> None:
    for text in ("a" * 300_000, " " * 300_000, "\n" * 300_000, "=" * 300_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_white_space_without_end_is_encoded_too(tokenizer: GPT2Tokenizer) -> None:
    for space, characters in (("\n", 1_100_000), ("\t \n", 90_000), (" \n", 90_000)):
        text = "x" + space * (characters // len(space)) + "y"
        assert tokenizer.encode(text) == by_tokenizers(tokenizer, text)


def test_what_tiktoken_would_merge_otherwise_is_left_to_tokenizers(folder: Path, tmp_path: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text().splitlines()
    first, second = ("".join(line.split(" ")) for line in lines[1:3])
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = open_tokenizer("gpt2", str(tmp_path), 2000)
    assert tokenizer._encode_ordinary.__module__ == "model.tokenizer.gpt2"
    assert all(tokenizer.encode(text) == by_tokenizers(tokenizer, text) for text in TEXTS)
