"""Byte-level BPE: CodeGen's ids, text without loss, and the same files for transformers."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, CodeGenTokenizer
from transformers import GPT2Tokenizer as TheirGPT2

from conf.errors import ConfigError
from model.tokenizer import load_tokenizer, open_tokenizer, tokenizer_folder
from model.tokenizer.codegen2 import CODEGEN2
from model.tokenizer.gpt2 import WHITESPACE, GPT2Tokenizer
from model.tokenizer.gpt2_files import EOS
from tests.gpt2 import released_gpt2, small_gpt2
from tests.model.tokenizer.test_sentencepiece import ANY_TEXT, TEXTS, TRAPS

ROOT = Path(__file__).parents[3]
OWN_SOURCES = sorted([*ROOT.glob("model/**/*.py"), *ROOT.glob("conf/**/*.yaml"), ROOT / "README.md"])
SPACES = ["", " x", "\t\t\tx", "\n" + " " * 70 + "x", "\t" * 25, " \t \t  \t\tx  ", "a" + " " * 31 + "b\n\n  \n"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt of a small byte-level BPE whose last id is the end of text, as GPT-2's."""
    return small_gpt2(tmp_path_factory.mktemp("small"), TEXTS)


@pytest.fixture(scope="module")
def codegen(small: Path) -> GPT2Tokenizer:
    return open_tokenizer("codegen", str(small), 1000)


def test_whitespace_tokens_stand_after_the_others_in_descending_length(small: Path, codegen: GPT2Tokenizer) -> None:
    plain = open_tokenizer("gpt2", str(small), 1000)
    first = plain.vocab_size
    assert codegen.vocab_size == first + 38 and codegen.eos == plain.eos == first - 1
    assert [codegen.encode(text) for text in WHITESPACE] == [[first + index] for index in range(38)]
    assert codegen.encode(" " * 31) == [first] and codegen.encode("\t" * 2) == [first + 37]
    assert codegen.token_bytes(first + 1) == b" " * 30
    assert (plain.kind, codegen.kind) == ("gpt2", "codegen")


PIECES = st.sampled_from([*TRAPS, *SPACES, "def", "return", "    ", "\t", EOS, "<|endoftext", "|>"])


@given(st.lists(PIECES | ANY_TEXT, max_size=8).map("".join))
def test_any_text_comes_back_exactly(codegen: GPT2Tokenizer, text: str) -> None:
    ids = codegen.encode(text)
    assert codegen.decode(ids) == text
    assert b"".join(map(codegen.token_bytes, ids)) == text.encode()
    assert codegen.eos not in ids


def test_lone_surrogates_are_refused_and_cut_characters_replaced(codegen: GPT2Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        codegen.encode("a\ud800")
    assert codegen.decode(codegen.encode("\U0001f469")[:-1]) == "\ufffd"
    assert codegen.decode([codegen.eos]) == ""


@pytest.mark.parametrize("kind", ["codegen", "gpt2"])
def test_saved_files_are_read_the_same_here_and_by_transformers(tmp_path: Path, small: Path, kind: str) -> None:
    tokenizer = open_tokenizer(kind, str(small), 1000)
    tokenizer.save(tmp_path / "tokenizer")
    again, theirs = load_tokenizer(tmp_path / "tokenizer"), AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer_folder(str(tmp_path)) == tmp_path / "tokenizer"
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (tokenizer.vocab_size, *[tokenizer.eos] * 2)
    assert again.vocab_size == tokenizer.vocab_size and again.kind == kind
    for text in [*TEXTS, *TRAPS, *SPACES]:
        assert tokenizer.encode(text) == again.encode(text) == theirs(text)["input_ids"]
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs(EOS)["input_ids"] == [tokenizer.eos], "where a document's text must not, a prompt's may"
    open_tokenizer("codegen", str(tmp_path / "tokenizer"), 1000)


def test_all_the_forms_of_a_folder_are_the_same_tokenizer(tmp_path: Path, small: Path, codegen: GPT2Tokenizer) -> None:
    openai, slow = tmp_path / "openai", tmp_path / "slow"
    openai.mkdir()
    shutil.copy(small / "vocab.json", openai / "encoder.json")
    shutil.copy(small / "merges.txt", openai / "vocab.bpe")
    shutil.copytree(small, slow)
    first = json.loads((small / "vocab.json").read_text())[EOS] + 1
    (slow / "added_tokens.json").write_text(json.dumps({text: first + n for n, text in enumerate(WHITESPACE)}))
    for folder in (openai, slow):
        other = open_tokenizer("codegen", str(folder), 1000)
        assert all(other.encode(text) == codegen.encode(text) for text in [*TEXTS, *TRAPS, *SPACES])
    (slow / "added_tokens.json").write_text(json.dumps({"  ": first - 2}))
    with pytest.raises(ConfigError, match=r"'  ' has id 329, which is '.+' already"):
        load_tokenizer(slow)
    (slow / "added_tokens.json").write_text(json.dumps({"  ": 10**9}))
    with pytest.raises(ConfigError, match="a gap of more than 10000 ids from 331 on"):
        load_tokenizer(slow)


MOSS = {"<|Human|>": 340, "<eoh>": 345, "  ": 350}  # as MOSS and CodeGen2 release them: special tokens, with gaps


@pytest.fixture(scope="module", params=["added_tokens.json", "tokenizer.json"])
def gapped(request: pytest.FixtureRequest, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released folder whose added tokens leave gaps in their ids, in either of its forms."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("gapped") / "tokenizer")
    special = [text for text in MOSS if text.startswith("<")]
    if request.param == "added_tokens.json":
        (folder / "added_tokens.json").write_text(json.dumps(MOSS))
        config = {"eos_token": EOS, "additional_special_tokens": special}
        (folder / "special_tokens_map.json").write_text(json.dumps(config))
        return folder
    open_tokenizer("gpt2", str(folder), 1000).save(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    for text, token in MOSS.items():
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": token, "content": text, "special": text in special, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_added_tokens_keep_their_ids_where_a_file_leaves_gaps(tmp_path: Path, gapped: Path) -> None:
    tokenizer = load_tokenizer(gapped)
    assert tokenizer.vocab_size == 351 and tokenizer.encode("  ") == [350]
    assert tokenizer.decode([340, 350]) == "<|Human|>  "
    tokenizer.save(tmp_path)
    again, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text, token in MOSS.items():
        assert again.encode(text, "all") == [token] == theirs(text)["input_ids"]


def test_special_tokens_are_ordinary_text_unless_they_are_allowed(gapped: Path) -> None:
    tokenizer = load_tokenizer(gapped)
    ordinary = tokenizer.encode("def <eoh> x<|Human|>")
    assert not {340, 345} & set(ordinary) and tokenizer.decode(ordinary) == "def <eoh> x<|Human|>"
    one = tokenizer.encode("def <eoh> x<|Human|>", ["<eoh>"])
    assert 345 in one and 340 not in one
    ids = tokenizer.encode("<|Human|>def x<eoh>" + EOS, "all")
    assert ids == [340, *tokenizer.encode("def x"), 345, tokenizer.eos]
    with pytest.raises(
        ConfigError, match=r"allowed_special=<eot> is no special token of this tokenizer; there is <\|end"
    ):
        tokenizer.encode("x", ["<eot>"])


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer.json"])
def test_codegen2s_tokens_are_special_though_its_files_do_not_say_so(tmp_path: Path, small: Path, file: str) -> None:
    """As released: every added token is an ordinary one, which any text could forge."""
    made = open_tokenizer("codegen2", str(small), 2000)
    first = made.vocab_size - len(CODEGEN2)
    ids = {text: first + number for number, text in enumerate(CODEGEN2)}
    released = Path(shutil.copytree(small, tmp_path / "released"))
    if file == "added_tokens.json":
        runs = {text: first - len(WHITESPACE) + number for number, text in enumerate(WHITESPACE)}
        (released / file).write_text(json.dumps(runs | ids))
    else:
        made.save(released)
        (released / "tokenizer_config.json").unlink()
        content = json.loads((released / file).read_text())
        content["added_tokens"] = [
            {**one, "special": one["content"] == EOS, "normalized": one["content"] != EOS}
            for one in content["added_tokens"]
        ]
        (released / file).write_text(json.dumps(content))
    opened = open_tokenizer("codegen2", str(released), 2000)
    for tokenizer in (made, opened, load_tokenizer(released)):
        assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.special_tokens) == (
            "codegen2",
            first + 905,
            {EOS: first - 39} | ids,
        )
        forged = tokenizer.encode("  <mask_1>\n<sep><eom>")
        assert max(forged) < first and tokenizer.decode(forged) == "  <mask_1>\n<sep><eom>"
        assert tokenizer.encode("<mask_1><sep>", "all") == [ids["<mask_1>"], ids["<sep>"]]
    opened.save(tmp_path / "saved")
    again, theirs = load_tokenizer(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.kind == "codegen2" and len(theirs) == again.vocab_size
    for text in ("def f():\n    <mask_1>\n    x<|endoftext|><sep><mask_1>", "<eom><mask_899>"):
        assert theirs(text)["input_ids"] == again.encode(text, "all")


def test_a_tokenizer_of_another_kind_or_size_is_one_line(tmp_path: Path, small: Path, codegen: GPT2Tokenizer) -> None:
    codegen.save(tmp_path / "codegen")
    for kind, source, rows, said in (
        ("gpt3", small, 1000, "data.tokenizer.kind=gpt3 does not exist"),
        ("sentencepiece", small, 1000, "holds a gpt2 tokenizer, not data.tokenizer.kind=sentencepiece"),
        ("gpt2", tmp_path / "codegen", 1000, "has CodeGen's whitespace tokens; use data.tokenizer.kind=codegen"),
        ("codegen", small, 350, r"model\.vocab_size=350 has no room for the 369 ids"),
        ("codegen", tmp_path, 350, "holds no tokenizer"),
        ("codegen", tmp_path / "none", 350, "does not exist, and names on the hub are written owner/name"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            open_tokenizer(kind, str(source), rows)
        assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line(tmp_path: Path, small: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        shutil.copytree(small, tmp_path / "cut")
        (tmp_path / "cut" / name).write_text((small / name).read_text()[:-30] + "x y z")
        with pytest.raises(ConfigError, match="holds no tokenizer") as caught:
            load_tokenizer(tmp_path / "cut")
        assert "\n" not in str(caught.value)


def test_codegens_published_ids() -> None:
    tokenizer = open_tokenizer("codegen", str(released_gpt2()), 51200)
    assert tokenizer.vocab_size == 50295 and tokenizer.eos == 50256
    assert tokenizer.encode("    return x") == [50284, 7783, 2124]
    assert [tokenizer.encode(" " * count) for count in range(2, 32)] == [[50288 - count] for count in range(2, 32)]
    assert [tokenizer.encode("\t" * count) for count in range(2, 10)] == [[50296 - count] for count in range(2, 10)]
    assert open_tokenizer("gpt2", str(released_gpt2()), 51200).vocab_size == 50257
    second = open_tokenizer("codegen2", str(released_gpt2()), 51200)
    ids = {
        "<dummy_0>": 50295,
        "<sep>": 50299,
        "<eom>": 50300,
        "<mask_899>": 50301,
        "<mask_2>": 51198,
        "<mask_1>": 51199,
    }
    assert ids.items() <= second.special_tokens.items() and second.vocab_size == 51200
    assert tokenizer.encode("Hello world") == [15496, 995]


@pytest.mark.parametrize(("kind", "theirs"), [("codegen", CodeGenTokenizer), ("gpt2", TheirGPT2)])
def test_code_and_text_get_the_ids_that_transformers_gives(tmp_path: Path, kind: str, theirs: type) -> None:
    released = released_gpt2()
    shutil.copy(released / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(released / "vocab.bpe", tmp_path / "merges.txt")
    reference, tokenizer = theirs.from_pretrained(tmp_path), open_tokenizer(kind, str(released), 51200)
    for text in WHITESPACE if kind == "codegen" else []:
        reference.add_tokens(text)
    for text in [*(path.read_text() for path in OWN_SOURCES), *TEXTS, *TRAPS, *SPACES]:
        text = text.replace(EOS, "")
        assert tokenizer.encode(text) == reference(text)["input_ids"]
