"""A text with a marked place, in two parts."""

import pytest

from conf.errors import ConfigError
from train.sample.gap import Gap, gap_in


def test_the_place_divides_the_text() -> None:
    assert gap_in("def f():\n<mask_1>    return 1\n") == Gap("def f():\n", "    return 1\n")
    assert gap_in("<mask_1>") == Gap("", "")


@pytest.mark.parametrize("text", ["", "<mask_2>", "<mask_1> and <mask_1>"])
def test_another_number_of_places_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"holds <mask_1> [02] times; write it once"):
        gap_in(text)
