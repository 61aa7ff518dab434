"""Which corpora a stage reads, and with which weights."""

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.mixture import corpora_of, phases_of
from conf.schema import MixturePhase, StageConfig


def test_a_stage_reads_its_corpus_or_its_mixture_in_phases() -> None:
    assert phases_of(StageConfig(corpus="mono")) == [(0, {"mono": 1.0})]
    later = [MixturePhase(10, {"multi": 1.0, "nl": 0.0})]
    stage = StageConfig(corpus="mono", mixture={"mono": 0.9, "nl": 0.1}, mixture_phases=later)
    assert phases_of(stage) == [(0, {"mono": 0.9, "nl": 0.1}), (10, {"multi": 1.0, "nl": 0.0})]
    assert corpora_of(stage) == ["mono", "nl", "multi"]
    assert corpora_of(StageConfig(corpus="mono", mixture={"mono": 0.0, "nl": 1.0})) == ["nl"]


def test_a_mixture_is_given_on_the_command_line() -> None:
    words = [
        "stages.mono.mixture={mono: 0.9, nl: 0.1}",
        "stages.mono.mixture_phases=[{from_step: 5, weights: {mono: 1}}]",
    ]
    stage = compose_settings(["stage=mono", *words]).stages["mono"]
    assert phases_of(stage) == [(0, {"mono": 0.9, "nl": 0.1}), (5, {"mono": 1.0})]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mixture={mono: 1, web: 1}", "stages.mono.mixture: web is not among data.corpora (nl, multi, mono)"),
        ("mixture={mono: 1, nl: -1}", "stages.mono.mixture: the weight of nl, -1, must be a number of 0 or more"),
        ("mixture={mono: x}", "stages.mono.mixture: the weight of mono, x, must be a number of 0 or more"),
        ("mixture=nl", "stages.mono.mixture=nl is no mapping of corpora to weights, such as {mono: 0.9, nl: 0.1}"),
        ("mixture={mono: 0}", "stages.mono.mixture gives no corpus a weight above 0"),
        ("mixture={nl: 1}", "stages.mono.corpus=mono is not in its mixture (nl)"),
        (
            "mixture_phases=[{from_step: 0, weights: {mono: 1}}]",
            "stages.mono.mixture_phases[0].from_step=0 must be more than 0, where the phase before it begins",
        ),
    ],
)
def test_a_mixture_that_cannot_be_read_is_one_line(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_settings(["stage=mono", f"stages.mono.{word}"])
    assert str(error.value) == said
