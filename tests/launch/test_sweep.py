"""`-m` makes a run of each value."""

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from launch.sweep import sweep_points


def test_every_combination_is_a_run_with_a_name_of_its_own() -> None:
    found = sweep_points(["model=tiny,350m", "optimizer.weight_decay=0.1,0.01", "stage=nl,multi", "run.seed=3"])
    settings = [compose_settings(words) for words in found]
    assert [(each.model.name, each.optimizer.weight_decay) for each in settings] == [
        ("tiny", 0.1),
        ("tiny", 0.01),
        ("350m", 0.1),
        ("350m", 0.01),
    ]
    assert all(list(each.stages) == ["nl", "multi"] and each.run.seed == 3 for each in settings)
    names = [each.run.name for each in settings]
    assert names[0] == "codegen-tiny-model_tiny-weight_decay_0.1" and len(set(names)) == 4


def test_a_range_is_a_sweep_too() -> None:
    found = sweep_points(["run.seed=range(1,4)"])
    assert [compose_settings(words).run.seed for words in found] == [1, 2, 3]


def test_names_that_are_given_are_kept() -> None:
    assert [compose_settings(words).run.name for words in sweep_points(["run.name=a,b"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.seed=3"], "no setting has several; write key=a,b"),
        (["run.seed=1,2", "model.n_layer=[1"], "no viable alternative"),
    ],
)
def test_what_cannot_be_swept_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_points(words)
    assert said in str(caught.value) and "\n" not in str(caught.value)
