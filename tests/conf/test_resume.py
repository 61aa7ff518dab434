"""A run's folder takes its own run back, with what may change and no more."""

from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.resume import (
    RULES,
    Rule,
    check_run_folder,
    differences,
    newest_checkpoint_step,
    rule_of,
)
from conf.run_folder import run_folder, save_settings
from tests.conf.conftest import asked, begin

PHASES = "stages.nl.mixture_phases=[{from_step: 50, weights: {nl: 1, mono: 1}}]"


def test_a_new_folder_holds_no_run(tmp_path: Path) -> None:
    settings = asked(tmp_path)
    assert run_folder(settings) == tmp_path / "mine"
    assert check_run_folder(settings) is False
    (tmp_path / "mine").mkdir()
    assert check_run_folder(settings) is False
    assert not list((tmp_path / "mine").iterdir()), "a look leaves nothing"


def test_checkpoints_without_records_are_a_run_s(held: Path) -> None:
    (held / "mine/metrics.jsonl").unlink()
    assert check_run_folder(asked(held)) is False
    begin(held, "nl", step=8)
    assert check_run_folder(asked(held)) is True
    with pytest.raises(ConfigError, match=r"holds a different run: run\.seed was"):
        check_run_folder(asked(held, "run.seed=7"))
    (held / "mine/stages/nl/checkpoints/step_00000099_backup").mkdir()
    assert newest_checkpoint_step(held / "mine", "nl") == 8


def test_a_path_that_a_script_cannot_hold_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="has a line break; choose another") as caught:
        check_run_folder(compose_settings(['run.root="/a\nb"']))
    assert "\n" not in str(caught.value)
    assert check_run_folder(compose_settings(["run.root='/a b'"])) is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.name='a b'"], "run.name='a b' must be the name of a folder"),
        (['run.name="a\nb"'], r"run.name='a\nb' must be the name of a folder"),
        (["run.group='a b'", "run.name=ab"], "run.group='a b' must be the name of a folder"),
    ],
)
def test_names_with_spaces_or_line_breaks_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings(words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_never_took_a_step_gives_way(held: Path) -> None:
    (held / "mine" / "metrics.jsonl").unlink()
    assert check_run_folder(asked(held, "model.n_layer=5")) is False


def test_the_same_run_goes_on(held: Path) -> None:
    assert check_run_folder(asked(held)) is True


FREE = [
    "layout=zero3",
    "layout.tensor_parallel_size=2",
    "layout.precision=bf16",
    "kernels=reference",
    "cluster.processes_per_node=4",
    "tracking.wandb=false",
    "tracking.log_every=1",
    "evaluation.every=3",
    "run.save_every=7",
    "run.group=others",
    "run.keep_checkpoints=1",
    "data.cache=elsewhere",
    "data.on_error=skip",
    "dry_run=true",
    "health.bad_steps=9",
    "profile.steps=9",
    "data.workers=1",
    "recipe.nl.steps=7 stages.nl.steps=120 stages.nl.warmup_steps=10 stages.nl.anneal_steps=110",
]


@pytest.mark.parametrize("word", FREE)
def test_how_it_is_spread_watched_and_kept_may_change(held: Path, word: str) -> None:
    assert check_run_folder(asked(held, *word.split())) is True


NEVER = [
    ("run.seed=7", "run.seed was 1234, now 7"),
    ("model.n_layer=5", "model.n_layer was 4, now 5"),
    ("finetune.rank=4", "finetune.rank was 16, now 4"),
    ("stages.nl.handover=full", "stages.nl.handover was weights, now full"),
    ("stages.nl.mixture={nl:1,mono:1}", "stages.nl.mixture was None, now {'nl': 1, 'mono': 1}"),
    (PHASES, "stages.nl.mixture_phases was [], now [{'from_step': 50, 'weights': {'nl': 1.0, 'mono': 1.0}}]"),
    ("stages.nl.init_from=owner/name", "stages.nl.init_from was None, now owner/name"),
]
WITH_EXTEND = [
    ("optimizer.beta2=0.95", "optimizer.beta2 was 0.999, now 0.95"),
    ("optimizer.decay=jaxformer", "optimizer.decay was matrices, now jaxformer"),
    ("stages.nl.peak_learning_rate=0.001", "stages.nl.peak_learning_rate was 0.004, now 0.001"),
    ("stages.nl.steps=240", "stages.nl.steps was 120, now 240"),
    ("stages.nl.global_batch_size=32", "stages.nl.global_batch_size was 16, now 32"),
    ("stages.nl.corpus=multi", "stages.nl.corpus was nl, now multi"),
    ("stages.nl.schedule=wsd", "stages.nl.schedule was cosine, now wsd"),
    ("data.filters.digit_fraction=0.5", "data.filters.digit_fraction was 0.9, now 0.5"),
    ("data.corpora.nl.max_bytes=null", "data.corpora.nl.max_bytes was 4000000, now None"),
]


@pytest.mark.parametrize(("word", "said"), NEVER + WITH_EXTEND, ids=[word for word, _ in NEVER + WITH_EXTEND])
def test_another_run_is_refused_with_what_was_and_what_is_asked(held: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_run_folder(asked(held, word))
    assert said in str(caught.value) and str(held / "mine") in str(caught.value)
    assert "choose another run.name" in str(caught.value) and "\n" not in str(caught.value)
    assert ("run.extend=true" in str(caught.value)) == ((word, said) in WITH_EXTEND)


@pytest.mark.parametrize("word", [word for word, _ in WITH_EXTEND])
def test_with_extend_the_run_goes_on_with_it(held: Path, word: str) -> None:
    assert check_run_folder(asked(held, word, "run.extend=true")) is True


@pytest.mark.parametrize("word", [word for word, _ in NEVER])
def test_what_a_run_is_made_of_never_changes(held: Path, word: str) -> None:
    with pytest.raises(ConfigError, match="holds a different run"):
        check_run_folder(asked(held, word, "run.extend=true"))


def test_every_rule_of_the_table_has_a_case_above() -> None:
    words = {Rule.free: FREE, Rule.extend: [word for word, _ in WITH_EXTEND], Rule.never: [word for word, _ in NEVER]}
    for beginning, (rule, _) in RULES.items():
        cases = [word for word in words[rule] if rule_of(word.partition("=")[0])[0] is rule]
        name = beginning.replace("NAME", "nl")
        assert any(case.startswith(name) for case in cases), f"{beginning} has no test"


def test_every_difference_is_listed_with_both_values(held: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.n_layer was 4, now 5; run\.seed .*, now 7; optimizer\.beta1 .*, now 0\.8; choose"
    ):
        check_run_folder(asked(held, "model.n_layer=5", "run.seed=7", "optimizer.beta1=0.8"))


def test_a_stage_that_has_not_begun_may_change_go_or_come(held: Path) -> None:
    assert check_run_folder(asked(held, "stages.multi.steps=77", "stages.multi.peak_learning_rate=0.001")) is True
    assert check_run_folder(asked(held, "stage=nl,multi")) is True
    assert check_run_folder(asked(held, "stage=nl")) is True


def test_a_stage_that_handed_its_weights_on_stays(held: Path) -> None:
    begin(held, "multi")
    with pytest.raises(ConfigError, match=r"stages\.nl\.steps was 120, now 240"):
        check_run_folder(asked(held, "stages.nl.steps=240", "run.extend=true"))
    with pytest.raises(ConfigError, match=r"stage was nl,multi, now nl"):
        check_run_folder(asked(held, "stage=nl"))
    with pytest.raises(ConfigError, match=r"stage was nl,multi, now mono,nl,multi"):
        check_run_folder(asked(held, "stage=mono,nl,multi"))


def test_a_stage_is_not_made_shorter_than_it_is(held: Path) -> None:
    begin(held, "nl", step=100)
    assert check_run_folder(asked(held, "stages.nl.steps=100", "run.extend=true")) is True
    with pytest.raises(ConfigError, match=r"stages\.nl\.steps=99, but .*mine has taken 100; give more"):
        check_run_folder(asked(held, "stages.nl.steps=99", "run.extend=true"))


def test_a_wsd_stage_may_get_longer_or_shorter_while_it_is_stable(held: Path) -> None:
    save_settings(asked(held, "stages.nl.schedule=wsd"), held / "mine")
    begin(held, "nl", step=60)
    assert check_run_folder(asked(held, "stages.nl.schedule=wsd", "stages.nl.steps=400")) is True
    assert check_run_folder(asked(held, "stages.nl.schedule=wsd", "stages.nl.steps=80")) is True
    begin(held, "nl", step=110)
    with pytest.raises(ConfigError, match=r"stages\.nl\.steps was 120, now 400; .*run\.extend=true"):
        check_run_folder(asked(held, "stages.nl.schedule=wsd", "stages.nl.steps=400"))


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ([], ["stages.nl.mixture={nl:1,mono:1}"], r"stages\.nl\.mixture was None"),
        (["stages.nl.epochs=2"], ["stages.nl.global_batch_size=32"], r"and stages\.nl\.epochs is counted in batches"),
        (
            ["stages.nl.tokens=99999999"],
            ["stages.nl.global_batch_size=32"],
            r"stages\.nl\.tokens is counted in batches",
        ),
        ([PHASES], ["stages.nl.global_batch_size=32"], r"mixture_phases is counted in batches; keep the batch$"),
        ([PHASES], ["data.validation_fraction=0.1"], r"mixture_phases are counted from the beginning of the data"),
    ],
)
def test_what_was_read_is_not_counted_another_way(held: Path, before: list[str], now: list[str], said: str) -> None:
    """A position in the data means nothing under another mixture or batch."""
    save_settings(asked(held, *before), held / "mine")
    begin(held, "nl", step=100)
    with pytest.raises(ConfigError, match=said):
        check_run_folder(asked(held, *before, *now, "run.extend=true"))


def test_resume_never_refuses_even_the_same_run(held: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run already; resume with run\.resume=auto"):
        check_run_folder(asked(held, "run.resume=never"))
    assert check_run_folder(compose_settings([f"run.root={held}", "run.name=new", "run.resume=never"])) is False


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not empty and holds no run; choose another folder with run\.name"):
        check_run_folder(asked(tmp_path))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match=r"mine is a file; choose another folder with run\.name"):
        check_run_folder(asked(tmp_path))


def test_a_broken_settings_file_is_named(held: Path) -> None:
    path = held / "mine" / "config.yaml"
    path.write_text(path.read_text().replace("n_layer: 4", "n_layer: four"))
    with pytest.raises(ConfigError) as caught:
        check_run_folder(asked(held))
    assert str(path) in str(caught.value) and "four" in str(caught.value) and "\n" not in str(caught.value)


def test_differences_are_named_by_their_dotted_key() -> None:
    one, other = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}
    assert differences(one, other) == [("a.c", 2, 3), ("a.d", None, 4)]
