"""A setting that does not compose is named with its file, its key, and the setting that was meant."""

import re
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError


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
    ("words", "said"),
    [
        (
            ["data.corpora.mono.paths=code"],
            "data.corpora.mono.paths=code is no list; write data.corpora.mono.paths=[code]",
        ),
        (
            ["data.tokenizer.special_tokens=<x>"],
            "'data.tokenizer.special_tokens=<x>' cannot be read at its character <;",
        ),
        (["finetune.targets={a:1}"], "finetune.targets is a list; write it between brackets: [a,b]"),
        (["data.corpora.mono.paths=[code"], "'data.corpora.mono.paths=[code': the bracket [ is not closed by a ]"),
        (["stages.nl.mixture={nl: 1"], "'stages.nl.mixture={nl: 1': the bracket { is not closed by a }"),
        (
            ["run.name=my run/é#1"],
            "run.name='my run/é#1' must be the name of a folder, letters, digits and ._+=-; it has ' ' '/' 'é' '#'",
        ),
        (
            ["run.name=a;rm -rf b"],
            "run.name='a;rm -rf b' must be the name of a folder, letters, digits and ._+=-; it has ';' ' '",
        ),
        (["run.root=a;b"], "'run.root=a;b' cannot be read at its character ;; a value with brackets"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_why(words: list[str], said: str) -> None:
    assert refusal("data=files", *words).startswith(said)
