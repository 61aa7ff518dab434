"""One interface for every kind, and one line for what is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from conf.errors import ConfigError
from model.tokenizer import (
    KINDS,
    Tokenizer,
    has_tokenizer,
    load_tokenizer,
    open_tokenizer,
    tokenizer_folder,
    train_tokenizer,
)
from tests.gpt2 import small_gpt2
from tests.model.tokenizer.test_sentencepiece import TEXTS


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer("sentencepiece", TEXTS, 400)


def test_a_saved_tokenizer_is_opened_from_its_folder_or_the_one_above(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer")
    assert tokenizer_folder(str(tmp_path)) == tmp_path / "tokenizer" == tokenizer_folder(str(tmp_path / "tokenizer"))
    again = open_tokenizer("sentencepiece", str(tmp_path), 400)
    assert again.kind in KINDS and again.special_tokens == trained.special_tokens == {"</s>": again.eos}
    for text in TEXTS:
        ids = again.encode(text)
        assert ids == trained.encode(text) and again.decode(ids) == text
    assert again.encode("a</s>b", "all") == [*again.encode("a"), again.eos, *again.encode("b")]


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece"])
def test_a_full_disk_is_an_error_of_the_system(trained: Tokenizer, tmp_path: Path, kind: str) -> None:
    """As commands expect it: one line."""
    tokenizer = trained if kind == "sentencepiece" else load_tokenizer(small_gpt2(tmp_path / "small", TEXTS))
    tokenizer.save(tmp_path / "whole")
    for name in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left on device"):
            tokenizer.save(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [1], {"added_tokens": None}, {"added_tokens": [1]}])
def test_damaged_files_of_a_sentencepiece_tokenizer_are_one_line(
    trained: Tokenizer, tmp_path: Path, content: Any
) -> None:
    trained.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="holds no tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_s_tokenizer_is_its_stages_too(trained: Tokenizer, tmp_path: Path) -> None:
    own, stage = tmp_path / "run/tokenizer", tmp_path / "run/stages/nl"
    stage.mkdir(parents=True)
    assert tokenizer_folder(str(stage)) == stage and not has_tokenizer(stage)
    trained.save(own)
    assert tokenizer_folder(str(stage)) == tokenizer_folder(str(tmp_path / "run")) == own and has_tokenizer(own)
    with pytest.raises(ConfigError, match=r"^stages\.nl\.init_from=.*none does not exist"):
        tokenizer_folder(str(tmp_path / "none"), "stages.nl.init_from")


def test_what_is_no_tokenizer_is_one_line(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "tokenizer")
    for kind, folder, rows, said in (
        (
            "bpe",
            tmp_path,
            400,
            "data.tokenizer.kind=bpe does not exist; there is codegen, codegen2, gpt2, sentencepiece",
        ),
        ("gpt2", tmp_path, 400, "holds a sentencepiece tokenizer, not data.tokenizer.kind=gpt2"),
        ("sentencepiece", tmp_path, 399, "model.vocab_size=399 has no room for the 400 ids"),
    ):
        with pytest.raises(ConfigError, match=said):
            open_tokenizer(kind, str(folder), rows)
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    for kind, said in (("codegen", "needs data.tokenizer.path"), ("bpe", "does not exist")):
        with pytest.raises(ConfigError, match=said):
            train_tokenizer(kind, TEXTS, 400)
