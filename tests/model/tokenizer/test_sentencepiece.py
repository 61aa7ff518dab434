import io
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from conf.errors import ConfigError
from model.tokenizer import load_tokenizer, train_tokenizer
from model.tokenizer.sentencepiece import MODEL_FILE, SPACE, SentencePieceTokenizer

TEXTS = [
    "def add(a, b):\n    return a + b\n\n\nclass Sum:\n    def value(self):\n        return self.a\n" * 30,
    "The quick brown fox jumps over the lazy dog. It does so again and again.\r\n" * 30,
    'int main(void) {\n\tfor (int i = 0; i < 8; ++i) {\n\t\tputs("hello");\n\t}\n}\n' * 30,
]
TRAPS = [
    "",
    " ",
    "  \n\n   ",
    "\t\t\t\t\t\t\t\t\t\t\tx",
    "line\r\nline\rline\n",
    "\0 NUL \x01\x07\x1b\x7f\x85\u2028\u2029",
    "\U0001f469\u200d\U0001f4bb caf\u00e9 cafe\u0301 \u4e2d\u6587 \ufeff\ufffd",
    f"{SPACE}{SPACE} a{SPACE}b {SPACE}",
    "<s></s><unk><0x0A><pad>\u2047\u2585",
    "trailing   ",
]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(TEXTS, 400)


@pytest.mark.parametrize("text", TRAPS)
def test_known_traps_come_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


ROOT = Path(__file__).parents[3]
PIECES = st.sampled_from([*TRAPS, "def", "return", "    ", "\n", "\r\n", "\t", SPACE, "</s>", "<0xE2>", "\0"])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.lists(PIECES | ANY_TEXT, max_size=8).map("".join))
def test_any_text_comes_back_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.eos not in ids
    assert 0 not in ids, "the unknown piece loses text"


def test_lone_surrogates_are_refused_not_replaced(tokenizer):
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800")


def test_a_cut_character_decodes_to_the_replacement(tokenizer):
    ids = tokenizer.encode("\U0001f469")
    assert tokenizer.decode(ids[:-1]) == "\ufffd"
    assert tokenizer.decode([tokenizer.eos]) == ""


def test_special_tokens_are_learnt_beside_eos_and_no_text_is_one(tokenizer, tmp_path):
    special = ["<mask_1>", "<sep>", "<eom>"]
    taught = train_tokenizer("sentencepiece", TEXTS, 400, special)
    assert taught.special_tokens == {"</s>": 1, "<mask_1>": 2, "<sep>": 3, "<eom>": 4} and taught.vocab_size == 400
    text = "x <mask_1>y<sep>"
    assert taught.decode(taught.encode(text)) == text and not {2, 3, 4} & set(taught.encode(text))
    assert taught.encode(text, special) == [*taught.encode("x "), 2, *taught.encode("y"), 3]
    taught.save(tmp_path)
    again, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.special_tokens == taught.special_tokens
    assert theirs.convert_tokens_to_ids(special) == [2, 3, 4] and theirs(text)["input_ids"] == again.encode(text)
    with pytest.raises(ConfigError, match="use at least 270"):
        train_tokenizer("sentencepiece", TEXTS, 269, special)


def test_indentation_is_cheap(tokenizer):
    assert len(tokenizer.encode("\n        return")) <= 3
    assert len(tokenizer.encode("\t\t\t")) == 1


def test_training_is_deterministic_and_survives_saving(tokenizer, tmp_path):
    again = SentencePieceTokenizer.train(iter(TEXTS), 400)
    tokenizer.save(tmp_path / "one")
    again.save(tmp_path / "two")
    for file in ("sentencepiece.model", "tokenizer.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    loaded = load_tokenizer(tmp_path / "one")
    assert loaded.vocab_size == tokenizer.vocab_size == 400
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_the_vocabulary_shrinks_on_a_tiny_text():
    tokenizer = train_tokenizer("sentencepiece", ["hello world"], 2048)
    assert tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode("other\nwords")) == "other\nwords"


def test_rare_characters_give_way_in_a_small_vocabulary():
    many = "".join(chr(0x4E00 + index) for index in range(900))
    tokenizer = train_tokenizer("sentencepiece", ["plain words " * 900 + many], 300)
    assert tokenizer.vocab_size <= 300
    assert tokenizer.decode(tokenizer.encode(many)) == many


@pytest.mark.parametrize(
    ("kind", "texts", "vocab_size", "words"),
    [
        ("gpt3", TEXTS, 400, "data.tokenizer.kind=gpt3 does not exist; there is codegen, codegen2, gpt2"),
        ("sentencepiece", TEXTS, 200, "model.vocab_size=200 is too small"),
        ("sentencepiece", [""], 400, "no text to train"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(kind, texts, vocab_size, words):
    with pytest.raises(ConfigError, match=words) as error:
        train_tokenizer(kind, texts, vocab_size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "{", json.dumps({"version": "1.0"})])
def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path: Path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    tokenizer.save(folder)
    return AutoTokenizer.from_pretrained(folder)


FOLDERS = ("conf", "launch", "model", "parallel", "tests", "train")
OWN_SOURCES = [
    path for folder in FOLDERS for kind in ("py", "yaml", "sh") for path in (ROOT / folder).rglob(f"*.{kind}")
]


def test_transformers_gives_the_same_ids_for_this_repositorys_sources(tmp_path):
    """In a vocabulary of 2048 that was trained on them, so that most merges take part."""
    texts = [path.read_text() for path in OWN_SOURCES]
    tokenizer = SentencePieceTokenizer.train(texts, 2048)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, len(theirs)) == (tokenizer.eos, tokenizer.vocab_size)
    for text in [*texts, *TRAPS]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


@given(st.lists(PIECES | ANY_TEXT, max_size=8).map("".join))
def test_transformers_gives_the_same_ids_for_any_text(tokenizer, theirs, text):
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text


def test_what_transformers_has_written_again_needs_the_model_beside_it(tokenizer, tmp_path):
    taught = tokenizer.with_special(["<eom>"], "{{ messages }}")
    taught.save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"read from sentencepiece\.model: copy that file beside it"):
        load_tokenizer(tmp_path / "theirs")
    shutil.copy(tmp_path / "ours" / MODEL_FILE, tmp_path / "theirs")
    again = load_tokenizer(tmp_path / "theirs")
    assert (again.special_tokens, again.chat_template) == (taught.special_tokens, taught.chat_template)


OURS = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False}
OURS |= {"remove_extra_whitespaces": False, "bos_id": -1, "eos_id": 1, "unk_id": 0, "user_defined_symbols": ["\t"]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_type": "unigram"}, "model_type=UNIGRAM, and model_type=BPE is needed"),
        ({"byte_fallback": False}, "byte_fallback=False"),
        ({"bos_id": 1, "eos_id": 2}, "eos_id=2, and eos_id=1"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalization_rule_name=nmt_nfkc"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix=True"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces=True"),
        ({}, "user_defined_symbols="),
    ],
)
def test_a_model_of_others_is_refused(tokenizer, tmp_path, options, said):
    """With spm_train's defaults text is lost, and `</s>` is 2; all of them are checked, one after the other."""
    tabs = {"user_defined_symbols": ["\t" * count for count in range(1, 9)]} if options else {}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[0].splitlines()),
        model_writer=model,
        **{"vocab_size": 330, "hard_vocab_limit": False, "minloglevel": 2, **OURS, **tabs, **options},
    )
    tokenizer.save(tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(model.getvalue())
    with pytest.raises(ConfigError, match=said) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
