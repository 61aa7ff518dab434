"""A setting that there is not: the one that was meant is named."""

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.meant import SYNONYMS


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_settings(list(words))
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["stage=mono", "lr=0.1"], "stages.mono.peak_learning_rate"),
        (["stage=mono", "steps=3"], "stages.mono.steps"),
        (["data.paths=[code]"], "data.corpora.NAME.paths"),
    ],
)
def test_of_settings_with_several_places_the_one_of_this_run_is_named(words: list[str], meant: str) -> None:
    said = refusal(*words)
    assert said.endswith(f"; did you mean '{meant}'?"), said


def test_what_follows_from_others_is_said_to() -> None:
    assert refusal("stage=mono", "layout.gradient_accumulation_steps=4") == (
        "unknown setting 'layout.gradient_accumulation_steps'; it follows from stages.mono.global_batch_size / "
        "(layout.micro_batch_size x replicas): set one of these"
    )


def test_a_stage_that_there_is_not_is_named() -> None:
    for stage in ("none", "sft"):
        said = refusal("stage=nl,mono", f"stages.{stage}.init_from=runs/mine")
        assert said.startswith(f"'stages.{stage}.init_from': {stage} is no stage of this run (nl, mono); select it by")
    assert refusal("stage=sft", "stages.sft.learning_rate=1").endswith("did you mean 'stages.sft.peak_learning_rate'?")
