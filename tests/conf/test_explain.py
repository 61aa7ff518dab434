"""A setting that does not compose is named with its file, its key, and the setting that was meant."""

import re
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.explain import SYNONYMS


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_settings(list(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  n_layerz: 3\n", "unknown setting 'model.n_layerz'; did you mean 'model.n_layer'?"),
        ("model:\n  n_layer: three\n", "model.n_layer: Value 'three' of type 'str' could not be converted to Integer"),
        ("zork: 1\n", "unknown setting 'zork'"),
        ("defaults:\n  - override /modell: tiny\n", "unknown setting 'modell'; did you mean 'model'?"),
        ("run:\n  seed: ${foo.bar}\n", "run.seed=${foo.bar}: Interpolation key 'foo.bar' not found"),
        ("run:\n  seed: ${oops\n", "run.seed: no viable alternative at input '${oops'"),
        ("layout:\n  micro_batch_size: many\n", "layout.micro_batch_size=many must be a whole number of sequences"),
        ("stages:\n  nl: {steps: 5, epochs: 3}\n", "stages.nl.steps=5 and stages.nl.epochs=3.0 say the same thing"),
        ("defaults: 3\n", "Invalid defaults list in 'experiment/mine', defaults must be a list (got int)"),
        ("defaults:\n  - mine\n", "the defaults of a file lead back to the file itself"),
        ("defaults:\n  - override /model: 7b\n", "model=7b does not exist; there are 16b, 2b, 350m, 6b, codegen2-16b,"),
    ],
)
def test_what_a_file_has_wrong_is_said_with_its_path(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment/mine.yaml"
    path.parent.mkdir()
    path.write_text(f"# @package _global_\n{text}")
    told = re.sub(r"yaml:\d+:", "yaml:", refusal(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"))
    assert told.startswith(f"{path}: {said}")


def test_a_file_without_its_package_line_is_told_of_it(tmp_path: Path) -> None:
    path = tmp_path / "experiment/mine.yaml"
    path.parent.mkdir()
    path.write_text("run:\n  seed: 4\n")
    said = refusal(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert said.startswith(f"{path}: its first line must be '# @package _global_'")


def test_a_model_without_its_sizes_is_said_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "model/mine.yaml"
    path.parent.mkdir()
    words = (f"hydra.searchpath=[file://{tmp_path}]", "model=mine")
    path.write_text("name: mine\n")
    assert refusal(*words) == f"{path}: n_layer and n_embd need values"
    path.write_text("name: mine\nn_layer: 2\nn_embd: 8\n")
    assert refusal(*words).startswith(f"{path}: model.context_length has no value")


def test_a_file_that_is_no_yaml_is_said_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("name: mine\nn_layer: [3\nn_embd: 2\n")
    said = refusal(f"hydra.searchpath=[file://{tmp_path}]", "model=mine", "recipe=tiny")
    assert said.startswith(f"{tmp_path}/model/mine.yaml:3: ")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr", "stages.nl.peak_learning_rate"),
        ("stages.mono.learning_rate", "stages.mono.peak_learning_rate"),
        ("batch_size", "stages.nl.global_batch_size"),
        ("seq_len", "model.context_length"),
        ("dp", "layout.data_parallel_size"),
        ("tp", "layout.tensor_parallel_size"),
        ("layout.pp", "layout.pipeline_parallel_size"),
        ("seed", "run.seed"),
        ("name", "run.name"),
        ("bf16", "layout.precision"),
        ("modell.n_layer", "model.n_layer"),
    ],
)
def test_words_of_other_trainers_are_understood(word: str, meant: str) -> None:
    assert refusal(f"{word}=1") == f"unknown setting '{word}'; did you mean '{meant}'?"


def test_every_synonym_stands_for_a_setting_that_exists() -> None:
    import dataclasses

    settings = dataclasses.asdict(compose_settings([]))
    for key in SYNONYMS.values():
        place = settings
        for part in key.replace("STAGE", "nl").split("."):
            assert part in place, key
            place = place[part]
