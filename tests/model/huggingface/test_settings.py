"""config.json says what a model is, and which number of groups its qkv_proj has."""

from typing import Any

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.huggingface.settings import config_of, mp_num_of, settings_of

SMALL = {"model_type": "codegen", "n_layer": 2, "n_embd": 64, "n_head": 8, "vocab_size": 100}


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
