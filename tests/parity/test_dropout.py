"""With dropout too every layout is the same training run: here all are compared with one process."""

from typing import Any

import pytest
import torch

from tests.parity.cases import train
from tests.parity.test_layouts import LAYOUTS
from tests.worlds import Worlds

DROPOUT = "model.dropout=0.2"
CHANGED = [
    *("selective recompute", "no accumulation", "dp2 zero2", "dp2 zero3 recompute", "tp2 sp recompute"),
    *("pp2 recompute", "tp2 pp2 dp2 sp"),
]


@pytest.fixture(scope="module")
def one_process(worlds: Worlds) -> dict[str, Any]:
    """The run on one process."""
    size, overrides = LAYOUTS["single"]
    (result,) = worlds(size).run(train, [*overrides, DROPOUT])
    return result  # type: ignore[no-any-return]


def test_dropout_is_active(one_process: dict[str, Any], expected: dict[str, Any]) -> None:
    assert one_process["loss"] != pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.parametrize("layout", CHANGED)
def test_layout_drops_the_same_values(layout: str, worlds: Worlds, one_process: dict[str, Any]) -> None:
    size, overrides = LAYOUTS[layout]
    weights: dict[str, torch.Tensor] = {}
    for result in worlds(size).run(train, [*overrides, DROPOUT]):
        for key in ("loss", "gradient_norm", "evaluation"):
            assert result[key] == pytest.approx(one_process[key], rel=1e-5), key
        weights |= result["weights"]
    assert weights.keys() == one_process["weights"].keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, one_process["weights"][name], rtol=1e-5, atol=2e-6, msg=name)
