"""config.json says what a model is, and which number of groups its qkv_proj has."""

from typing import Any

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.huggingface.settings import config_of, mp_num_of, settings_of

SMALL = {"model_type": "codegen", "n_layer": 2, "n_embd": 64, "n_head": 8, "vocab_size": 100, "rotary_dim": 8}


@pytest.mark.parametrize("name", ["350m", "2b", "6b", "16b"])
def test_every_size_there_and_back(name: str) -> None:
    model = compose_settings([f"model={name}"]).model
    config = config_of(model, "float16", None)
    assert settings_of({**config, "_name_or_path": name}, "anywhere") == model
    assert (config["eos_token_id"], config["bos_token_id"], config["tie_word_embeddings"]) == (50256, 50256, False)
    assert config_of(model, "float16", 1)["eos_token_id"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_function": "relu"}, "activation_function=relu, which is not CodeGen's gelu_new"),
        ({"n_inner": 128}, "n_inner=128, which is not CodeGen's None"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
        ({"model_type": "llama"}, "is a llama model"),
    ],
)
def test_a_variant_that_is_not_codegen_is_refused(change: dict[str, Any], said: str) -> None:
    assert settings_of(SMALL, "a").n_embd == 64
    with pytest.raises(ConfigError, match=said):
        settings_of({**SMALL, **change}, "a")


@pytest.mark.parametrize(
    ("config", "source", "asked", "found"),
    [
        ({}, "Salesforce/codegen-350M-mono", None, 4),
        ({}, "jaxformer-export", 8, 8),
        ({"mp_num": 8}, "anything", None, 8),
        ({}, "Salesforce/codegen2-1B", None, 8),
        ({"_name_or_path": "Salesforce/codegen2-3_7B"}, "a/folder", None, 8),
        ({}, "Salesforce/codegen2-16B", None, 4),
        ({}, "Salesforce/codegen2-1B", 4, "its name says 8; write mp_num=8"),
        ({"mp_num": 4}, "anything", 8, "config.json says 4; write mp_num=4"),
        ({}, "anything", 3, "mp_num=3 does not divide n_head=8"),
        ({}, "anything", 0, "mp_num=0 does not divide n_head=8"),
    ],
)
def test_groups_are_what_was_asked_unless_the_checkpoint_knows_better(
    config: dict[str, Any], source: str, asked: int | None, found: int | str
) -> None:
    model: ModelConfig = settings_of(SMALL, source)
    if isinstance(found, int):
        assert mp_num_of(config, source, model, asked) == found
        return
    with pytest.raises(ConfigError, match=found):
        mp_num_of(config, source, model, asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_layer": 2.0}, "has 2.0 for n_layer"),
        ({"n_embd": None}, "has None for n_embd"),
        ({"rotary_dim": "4"}, "has '4' for rotary_dim"),
        ({"layer_norm_epsilon": None}, "has None for layer_norm_epsilon"),
        ({"n_head": 0}, "n_head=0 must be at least 1"),
        ({"n_head": 3}, "n_head=3 does not divide"),
        ({"rotary_dim": 16}, "rotary_dim=16 must be even and at most head_dim=8"),
        ({}, "rotary_dim=64 must be even and at most head_dim=8"),
    ],
)
def test_what_no_model_has_is_one_line(change: dict[str, Any], said: str) -> None:
    config = {key: value for key, value in SMALL.items() if change or key != "rotary_dim"}
    with pytest.raises(ConfigError, match=f"a: config.json .*{said}"):
        settings_of({**config, **change}, "a")


def test_the_name_of_a_folder_above_says_nothing() -> None:
    model = settings_of(SMALL, "a")
    assert mp_num_of({}, "codegen2-1B-against-350M/codegen-350M", model, None) == 4
    assert mp_num_of({"_name_or_path": 5}, "a", model, None) == 4
    assert mp_num_of({}, "/cache/models--Salesforce--codegen2-1B/snapshots/0123", model, None) == 8
    with pytest.raises(ConfigError, match="mp_num='4', which is no number"):
        mp_num_of({"mp_num": "4"}, "a", model, None)
