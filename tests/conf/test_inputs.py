"""What a run reads is looked at before it is started: corpora, tokenizer, parents."""

import json
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.inputs import TOKENIZER_KINDS, check_inputs
from conf.run_folder import save_settings
from model.tokenizer import KINDS


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_inputs(compose_settings(["stage=mono", *words]))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_there() -> None:
    check_inputs(compose_settings([]))
    assert set(TOKENIZER_KINDS) == set(KINDS)


def test_a_corpus_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "corpus mono, which has no documents yet" in refusal("data=files")
    assert refusal("data=files", f"data.corpora.mono.paths=[{tmp_path}/a.jsonl]").endswith("a.jsonl does not exist")
    assert refusal("data=files", f"data.corpora.mono.paths=['{tmp_path}/*.py']").endswith("*.py matches no file")
    assert refusal("data=git", "data.corpora.mono.paths=[/nowhere/at/all]").endswith("/nowhere/at/all does not exist")
    (tmp_path / "a.py").touch()
    check_inputs(compose_settings(["stage=mono", "data=files", f"data.corpora.mono.paths=['{tmp_path}/*.py']"]))


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "data.tokenizer.kind=bpe does not exist; there are codegen," in refusal("data.tokenizer.kind=bpe")
    assert refusal(f"data.tokenizer.path={tmp_path}").endswith("is an empty folder")


def test_an_objective_that_cannot_be_trained_is_named() -> None:
    check_inputs(compose_settings(["data.objective=infill"]))
    words = ("data.objective=infill", "data.tokenizer.path=.")
    for kind in ("codegen", "gpt2"):
        said = refusal(*words, f"data.tokenizer.kind={kind}")
        assert said.endswith(f"<eom>, which data.tokenizer.kind={kind} does not have; use codegen2")
    check_inputs(compose_settings([*words, "data.tokenizer.kind=codegen2"]))
    for name, value in (("infill_fraction", "0"), ("infill_fraction", "1.1"), ("infill_span", "0")):
        assert f"data.{name}={float(value)} must be above 0 and at most 1" in refusal(words[0], f"data.{name}={value}")
    assert "has no room for data.objective=infill" in refusal(
        words[0], "model.context_length=6", "evaluation.sample_tokens=1"
    )


def test_a_parent_that_does_not_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text(json.dumps({"n_layer": 20, "n_embd": 128}))
    said = refusal(f"stages.mono.init_from={tmp_path}/hf")
    assert said.endswith("holds another model: model.n_layer is 20 there and 4 here")
    (tmp_path / "hf/config.json").write_text(json.dumps({"vocab_size": 4096}))
    assert refusal(f"stages.mono.init_from={tmp_path}/hf").endswith("model.vocab_size is 4096 there and 2048 here")
    (tmp_path / "hf/config.json").write_text(json.dumps({"layer_norm_epsilon": 1e-6}))
    assert refusal(f"stages.mono.init_from={tmp_path}/hf").endswith("layer_norm_epsilon is 1e-06 there and 1e-05 here")
    (tmp_path / "hf/config.json").write_text(json.dumps({"vocab_size": 512}))
    check_inputs(compose_settings(["stage=mono", f"stages.mono.init_from={tmp_path}/hf"]))  # it grows
    said = refusal(f"stages.mono.init_from={tmp_path}/hf", "finetune=lora")
    assert "finetune=lora trains no rows of new tokens, and " in said and "hf has 512 of 2,048; train them by" in said
    for damaged in ("[]", '{"model": [1]}', "{"):  # whoever opens it says what is wrong
        (tmp_path / "hf/config.json").write_text(damaged)
        check_inputs(compose_settings(["stage=mono", f"stages.mono.init_from={tmp_path}/hf"]))
    save_settings(compose_settings(["model.n_head=8"]), tmp_path / "run")
    words = [f"stages.mono.init_from={tmp_path}/run"]
    assert "is a run of which no stage is finished" in refusal(*words)
    (tmp_path / "run/stages/nl/weights").mkdir(parents=True)
    assert refusal(*words).endswith("model.n_head is 8 there and 4 here")
    assert refusal(f"{words[0]}/stages/nl").endswith("model.n_head is 8 there and 4 here")
    check_inputs(compose_settings(["stage=mono", "model.n_head=8", *words]))
