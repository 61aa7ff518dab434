"""Every form of a byte-level BPE's files gives the ids of its vocabulary and merges, and transformers the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer
from transformers import GPT2Tokenizer as TheirGPT2

from conf.errors import ConfigError
from model.tokenizer import load_tokenizer, open_tokenizer
from model.tokenizer.gpt2_files import EOS
from tests.gpt2 import small_gpt2
from tests.model.tokenizer.test_sentencepiece import TEXTS, TRAPS

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
ODD = "x <fim> y  <|endoftext|> z"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder with a tokenizer.json."""
    load_tokenizer(small_gpt2(tmp_path / "parts", TEXTS)).save(tmp_path / "whole")
    return tmp_path / "whole"


def rewrite(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def with_parts(folder: Path, **parts: Any) -> None:
    """Set what a tokenizer.json holds beside its model."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.save(str(folder / "tokenizer.json"))


def test_what_a_tokenizer_json_does_beside_its_ids_is_not_done_to_training_text(tmp_path: Path, whole: Path) -> None:
    """transformers saves the truncation and padding of its last call; a BOS would stand in prompts alone."""
    plain, end = load_tokenizer(whole), json.loads((whole / "tokenizer.json").read_text())["added_tokens"]
    fim = {"id": plain.vocab_size, "content": "<fim>", "special": False, **FLAGS, "lstrip": True, "rstrip": True}
    rewrite(whole / "tokenizer.json", added_tokens=[*end, fim])
    bos = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, plain.eos)])
    with_parts(whole, post_processor=bos)
    backend = Tokenizer.from_file(str(whole / "tokenizer.json"))
    backend.model.dropout = 0.5
    backend.enable_truncation(8)
    backend.enable_padding(length=8)
    backend.save(str(whole / "tokenizer.json"))
    tokenizer = load_tokenizer(whole)
    tokenizer.save(tmp_path / "exported")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in [*TEXTS, *TRAPS, "a", ODD]:
        ids = tokenizer.encode(text, "all")
        assert ids == theirs(text)["input_ids"] and theirs.decode(ids) == text
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert "<fim>" in text or ids == plain.encode(text, "all")


SPLIT = pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\s+|\S+"), "isolated")
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "model", "said"),
    [
        (
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            None,
            {},
            "the pre_tokenizer in its tokenizer.json is another",
        ),
        (pre_tokenizers.Sequence([SPLIT, WORDS]), None, {}, "the pre_tokenizer"),
        (WORDS, None, {}, "the pre_tokenizer"),
        (None, {"type": "NFC"}, {}, "the normalizer"),
        (None, None, {"ignore_merges": True}, "the model"),
        (None, None, {"byte_fallback": True}, "is a sentencepiece tokenizer's, which is read from sentencepiece.model"),
        (None, None, {"vocab": {"a": 0}, "merges": []}, "no token for 255 of the 256 bytes"),
        (None, None, {"merges": [["a", "nowhere"]]}, "its vocabulary and its merges: "),
    ],
)
def test_a_tokenizer_of_which_transformers_would_make_another_is_refused(
    whole: Path, pre_tokenizer: Any, normalizer: Any, model: dict[str, Any], said: str
) -> None:
    if pre_tokenizer is not None:
        with_parts(whole, pre_tokenizer=pre_tokenizer)
    content = json.loads((whole / "tokenizer.json").read_text())
    rewrite(whole / "tokenizer.json", normalizer=normalizer, model={**content["model"], **model})
    with pytest.raises(ConfigError, match=said) as caught:
        load_tokenizer(whole)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_the_end_of_text_has_the_id_that_the_added_tokens_give_it(tmp_path: Path, file: str) -> None:
    """MOSS's is one of many; transformers 4 wrote them all to tokenizer_config.json."""
    folder = small_gpt2(tmp_path / "slow", TEXTS)
    first = json.loads((folder / "vocab.json").read_text())[EOS] + 1
    ids = {"<pad>": first, "<eoh>": first + 1, "<eom>": first + 2}
    config: dict[str, Any] = {"eos_token": "<eom>", "pad_token": "<pad>", "tokenizer_class": "GPT2Tokenizer"}
    if file == "added_tokens.json":
        (folder / file).write_text(json.dumps(ids))
    else:
        config["added_tokens_decoder"] = {
            str(token): {"content": text, "special": True, **FLAGS} for text, token in ids.items()
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos, tokenizer.vocab_size) == (first + 2, first + 3)
    assert tokenizer.encode("<pad><eom>", "all") == [first, first + 2]


def test_an_end_of_text_that_no_file_has_gets_the_next_id(tmp_path: Path) -> None:
    folder = small_gpt2(tmp_path / "slow", TEXTS, eos=None)
    assert load_tokenizer(folder).eos == 330
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": 330}))
    assert load_tokenizer(folder).eos == TheirGPT2.from_pretrained(folder).eos_token_id == 331
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": 331}))
    assert load_tokenizer(folder).eos == 330


def test_how_transformers_pads_and_cuts_goes_through(tmp_path: Path, whole: Path) -> None:
    config = whole / "tokenizer_config.json"
    rewrite(config, pad_token={"content": EOS}, padding_side="left", truncation_side="left", model_max_length=2048)
    open_tokenizer("codegen", str(whole), 1000).save(tmp_path / "exported")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert (theirs.pad_token, theirs.padding_side, theirs.model_max_length) == (EOS, "left", 2048)
    assert theirs.truncation_side == "left"
    assert theirs(["def", "def f(x):"], padding=True)["input_ids"][0][0] == theirs.eos_token_id
    rewrite(config, pad_token="d")  # transformers would make a special token of it
    load_tokenizer(whole).save(tmp_path / "ordinary")
    assert "pad_token" not in json.loads((tmp_path / "ordinary/tokenizer_config.json").read_text())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", [1]),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": None}, "eos_token": {}}),
        ("added_tokens.json", None),
        ("added_tokens.json", ["a"]),
        ("added_tokens.json", {"a": "5"}),
        ("vocab.json", {"a": None}),
        ("tokenizer.json", {"model": None}),
        ("tokenizer.json", []),
    ],
)
def test_files_of_another_shape_are_one_line(tmp_path: Path, name: str, content: Any) -> None:
    folder = small_gpt2(tmp_path / "slow", TEXTS)
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="holds no tokenizer") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)
    (folder / name).unlink()


def test_null_is_as_a_key_that_is_not_there(tmp_path: Path) -> None:
    folder = small_gpt2(tmp_path / "slow", TEXTS)
    keys = dict.fromkeys(("eos_token", "pad_token", "added_tokens_decoder", "additional_special_tokens"))
    (folder / "tokenizer_config.json").write_text(json.dumps(keys))
    assert load_tokenizer(folder).eos == 330
