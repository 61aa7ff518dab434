"""The micro-batch that `auto` chooses fits, fills the global batch, and grows with the memory."""

from dataclasses import replace

import pytest

from conf.choices import Precision
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.schema import Settings
from train.batch_size import choose_micro_batch_size
from train.plan.planner import plan


@pytest.fixture
def auto() -> Settings:
    """The smallest model, 24 sequences a step on 2 processes: micro-batches of 1, 2, 3, 4, 6 or 12."""
    words = ["stage=nl", "stages.nl.global_batch_size=24", "layout.micro_batch_size=auto", "model.n_layer=2"]
    settings = compose_settings([*words, "kernels=eager"])
    return replace(settings, layout=replace(settings.layout, precision=Precision.fp32))


def needs(settings: Settings, micro_batch_size: int) -> int:
    layout = replace(settings.layout, micro_batch_size=micro_batch_size)
    return max(each.total for each in plan(replace(settings, layout=layout), 2))


def test_the_largest_that_fits_and_divides_the_batch_is_chosen(auto: Settings) -> None:
    assert choose_micro_batch_size(auto, 2, 2**50) == 12
    assert choose_micro_batch_size(auto, 2, needs(auto, 6)) == 6
    assert choose_micro_batch_size(auto, 2, needs(auto, 6) - 1) == 4


def test_where_nothing_fits_it_says_what_is_needed(auto: Settings) -> None:
    with pytest.raises(
        ConfigError, match=r"a micro-batch of 1 needs .* GiB a process, and 0\.00 can be filled; use more"
    ):
        choose_micro_batch_size(auto, 2, 1000)
