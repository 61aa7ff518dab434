"""Lengths, warm-up and annealing as a person may give them, and the one line that says what came of it."""

import pytest

from conf.choices import Schedule
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.resume import differences
from conf.schedule import count_steps, schedule_lines
from conf.schema import StageConfig, plain
from train.schedule import last_stable_step, learning_rate


def stage(*words: str, sequences: int | None = None) -> StageConfig:
    """The mono stage of the laptop's recipe: 120 steps of 4,096 tokens, 10 of warm-up, 110 of annealing."""
    settings = compose_settings(["stage=mono", *(f"stages.mono.{word}" for word in words)])
    return count_steps(settings, None if sequences is None else {"mono": sequences}).stages["mono"]


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        ([], (120, 10, 110)),
        (["steps=2400"], (2400, 200, 2200)),
        (["steps=6"], (6, 0, 6)),
        (["tokens=1e6"], (245, 20, 225)),
        (["tokens=4096"], (1, 0, 1)),
        (["steps=2400", "warmup_steps=7"], (2400, 7, 2200)),
        (["steps=2400", "warmup_ratio=0.5"], (2400, 1200, 1200)),
        (["steps=2400", "anneal_steps=100"], (2400, 200, 100)),
        (["steps=2400", "schedule=wsd"], (2400, 10, 240)),
        (["steps=2400", "anneal_ratio=0.5", "schedule=wsd"], (2400, 10, 1200)),
        (["schedule=wsd"], (120, 10, 12)),
        (["warmup_steps=100"], (120, 100, 20)),
        (["steps=120"], (120, 10, 110)),
        (["global_batch_size=32"], (120, 10, 110)),
    ],
)
def test_a_length_alone_scales_the_recipes_warm_up_and_annealing(words: list[str], counts: tuple[int, ...]) -> None:
    found = stage(*words)
    assert (found.steps, found.warmup_steps, found.anneal_steps) == counts


def test_a_stage_without_a_recipe_of_its_own_takes_monos_share() -> None:
    words = [f"stages.sft.{word}" for word in ("warmup_ratio=null", "epochs=null", "steps=240")]
    settings = compose_settings(["stage=sft", "data=conversations", "data.corpora.sft.paths=[a.jsonl]", *words])
    assert settings.stages["sft"].warmup_steps == 20


def test_a_paper_sized_stage_that_is_shortened_still_ends_at_the_end_rate() -> None:
    settings = compose_settings(["model=350m", "stage=nl", "stages.nl.tokens=10e9"])
    found = settings.stages["nl"]
    assert (found.steps, found.warmup_steps, found.anneal_steps) == (19074, 163, 16349)
    assert schedule_lines(settings) == [
        "stage nl: 19,074 steps, 10,000,269,312 tokens; lr to 0.0003 in 163 steps, cosine to 3e-05 in 16,349, "
        "flat for 2,562 (13%); warm-up and annealing scaled from the recipe's 350,000 steps"
    ]


def test_epochs_are_counted_once_the_data_is_known() -> None:
    assert stage("epochs=3").steps == 0
    found = stage("epochs=3", sequences=1000)
    assert (found.steps, found.warmup_steps, found.anneal_steps) == (188, 16, 172)
    assert stage("epochs=0.5", "warmup_steps=2", sequences=1000).warmup_steps == 2
    half = stage("epochs=3", "mixture={mono:1,nl:1}", sequences=1000)
    assert half.steps == 375, "passes over its own corpus, which is half of what it reads"
    line = schedule_lines(compose_settings(["stage=mono", "stages.mono.epochs=3"]))[0]
    assert line.startswith("stage mono: 3 epochs of corpus mono; warm-up 8.3%, annealing 91.7%")


def test_the_command_line_takes_the_place_of_what_an_experiment_sets() -> None:
    words = ["experiment=finetune_python", "data.corpora.mono.paths=[x]", "stages.mono.init_from=owner/name"]
    assert compose_settings([*words, "stages.mono.steps=500"]).stages["mono"].steps == 500
    assert compose_settings([*words, "stages.mono.tokens=6553600"]).stages["mono"].steps == 100


def test_diff_codegens_schedule_is_linear_up_and_down() -> None:
    words = ["experiment=diff_codegen", "data.corpora.mono.paths=[x]", "stages.mono.init_from=owner/name"]
    settings = count_steps(compose_settings(words), {"mono": 256 * 5000})
    one, adamw = settings.stages["mono"], settings.optimizer
    assert (one.steps, one.warmup_steps, one.anneal_steps, one.global_batch_size) == (5000, 895, 4105, 256)
    assert (one.peak_learning_rate, one.end_learning_rate, adamw.beta1, adamw.beta2) == (1e-5, 0, 0.9, 0.95)
    assert one.schedule is Schedule.wsd and last_stable_step(one) == 895
    assert learning_rate(one, 895) == 1e-5 and learning_rate(one, 5000) == 0
    assert learning_rate(one, 895 + 821) == pytest.approx(0.8e-5)


@pytest.mark.parametrize(
    "words", [["steps=5", "tokens=1e6"], ["tokens=1e6", "epochs=2"], ["warmup_steps=5", "warmup_ratio=0.1"]]
)
def test_two_settings_for_the_same_thing_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="say the same thing twice; set one of them") as caught:
        stage(*words)
    assert all(f"stages.mono.{word.partition('=')[0]}=" in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["steps=120"], [], True),
        (["tokens=491520"], ["steps=120"], True),
        (["steps=120", "warmup_ratio=0.1"], ["steps=120", "warmup_steps=12"], True),
        (["epochs=2"], ["epochs=2"], True),
        (["epochs=2"], ["epochs=3"], False),
        (["epochs=2"], [], False),
        (["steps=121"], [], False),
    ],
)
def test_the_same_schedule_however_it_is_written_is_the_same_run(one: list[str], other: list[str], same: bool) -> None:
    settings = [compose_settings(["stage=mono", *(f"stages.mono.{word}" for word in words)]) for words in (one, other)]
    saved = plain(count_steps(settings[0], {"mono": 1000}))  # as the run knows its steps once it has the data
    assert (not differences(saved, plain(settings[1]))) == same
