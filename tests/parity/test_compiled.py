"""The form that trains on GPUs, compiled and with fused attention, is the golden run too, in few graphs."""

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.parity.cases import engine_of, mesh_for, settings_of, take_steps
from tests.parity.test_layouts import LAYOUTS
from tests.worlds import Worlds

AUTO = ["kernels.compile=true", "kernels.attention=auto"]  # as in conf/kernels/auto.yaml
COMPILED = ["tp2 sp recompute", "tp2 sp selective recompute", "pp2 recompute", "dp2 zero2", "dp2 zero3"]


def train_compiled(overrides: list[str]) -> dict[str, Any]:
    """What `take_steps` gives, with what torch.compile counted."""
    torch._dynamo.reset()
    counters.clear()
    settings = settings_of([*overrides, *AUTO])
    engine = engine_of(settings, mesh_for(settings))
    trained = take_steps(engine, settings)
    engine.destroy()
    return {
        **trained,
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": {str(reason): count for reason, count in counters["graph_break"].items()},
    }


@pytest.mark.parametrize("layout", COMPILED)
def test_compiled_layout_trains_the_golden_run(layout: str, worlds: Worlds, expected: dict[str, Any]) -> None:
    """Weights within a 700th of the steps they moved: AdamW follows the sign of gradients that are near zero."""
    from tests.parity import test_compiled

    size, overrides = LAYOUTS[layout]
    for result in worlds(size).run(test_compiled.train_compiled, overrides):
        for key in ("loss", "gradient_norm"):
            assert result[key] == pytest.approx(expected[key], rel=1e-5), key
        for name, value in result["weights"].items():
            torch.testing.assert_close(
                value, expected["weights"][name], rtol=1e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
        assert not result["breaks"]
        assert 0 < result["graphs"] <= 5, "the blocks share one, and the loss has two a length of chunk"
