"""The form that trains on GPUs, compiled and with fused attention, is the golden run too, in few graphs."""

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.parity.cases import RATE, STEPS, engine_of, mesh_for, micro_batches, settings_of
from tests.parity.test_layouts import LAYOUTS
from tests.worlds import Worlds

AUTO = ["kernels.compile=true", "kernels.attention=auto"]  # as in conf/kernels/auto.yaml
COMPILED = ["tp2 sp recompute", "pp2 recompute", "dp2 zero3"]


def train_compiled(overrides: list[str]) -> dict[str, Any]:
    """Losses, gradient norms and final weights, as `train` gives them, with what torch.compile counted."""
    torch._dynamo.reset()
    counters.clear()
    settings = settings_of([*overrides, *AUTO])
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    results = []
    for step in range(STEPS):
        engine.set_lr(RATE)
        results.append(engine.train_batch(micro_batches(step, settings, mesh)))
    weights = {name: value for name, value in engine.full_state() if value is not None}
    engine.destroy()
    return {
        "loss": [result.loss for result in results],
        "gradient_norm": [result.gradient_norm for result in results],
        "weights": weights,
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
