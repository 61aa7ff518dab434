"""The learning rate, against JAXFORMER's formula and by its landmarks."""

import math
from dataclasses import replace

import pytest

from conf.choices import Schedule
from conf.compose import compose_settings
from train.schedule import learning_rate

STAGE = compose_settings(["model=350m", "stage=nl"]).stages["nl"]


@pytest.mark.parametrize("step", [1, 2999, 3000, 3001, 100_000, 153_000, 302_999, 303_000, 303_001, 350_000])
def test_cosine_is_jaxformers(step: int) -> None:
    done = min(max((step - 3000) / 300_000, 0), 1)
    expected = 3e-4 * step / 3000 if step <= 3000 else 3e-4 - (3e-4 - 3e-5) * (1 - math.cos(math.pi * done)) / 2
    assert learning_rate(STAGE, step) == pytest.approx(expected, rel=1e-12)


def test_landmarks() -> None:
    assert learning_rate(STAGE, 3000) == 3e-4
    assert learning_rate(STAGE, 153_000) == pytest.approx((3e-4 + 3e-5) / 2)
    assert learning_rate(STAGE, 303_000) == learning_rate(STAGE, 350_000) == pytest.approx(3e-5)


def test_wsd_is_stable_then_falls_to_the_end() -> None:
    stage = replace(STAGE, schedule=Schedule.wsd, anneal_steps=50_000)
    assert learning_rate(stage, 1500) == 1.5e-4
    assert learning_rate(stage, 3000) == learning_rate(stage, 300_000) == 3e-4
    assert learning_rate(stage, 325_000) == pytest.approx((3e-4 + 3e-5) / 2)
    assert learning_rate(stage, 350_000) == pytest.approx(3e-5)


def test_no_warm_up_and_no_annealing() -> None:
    stage = replace(STAGE, warmup_steps=0, anneal_steps=0)
    assert learning_rate(stage, 1) == 3e-5
    assert learning_rate(replace(stage, schedule=Schedule.wsd), 350_000) == pytest.approx(3e-5)
