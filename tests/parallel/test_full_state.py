"""Weights and moments go into every layout's parts and come out whole, and the counts with them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model.build import layer_shapes
from parallel.full_state import MOMENTS, WEIGHTS
from tests.parity.cases import engine_of, mesh_for, settings_of
from tests.worlds import Worlds

COUNTS = {"adam_steps": 7, "steps": 9, "skipped_steps": 2, "loss_scale": {}}


def exchanged(overrides: list[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """A case: set made-up weights, moments and counts, and return what this process is given of them."""
    settings = settings_of(overrides)
    engine = engine_of(settings, mesh_for(settings))
    shapes = layer_shapes(settings.model)
    found = {}
    for number, what in enumerate((WEIGHTS, *MOMENTS)):
        engine.load_full_state(what, lambda index, number=number: made_up(shapes[index], 10 * index + number))  # type: ignore[misc]
        found[what] = {name: value for name, value in engine.full_state(what) if value is not None}
    engine.trainer_state = COUNTS
    counts = engine.trainer_state
    engine.destroy()
    return found, counts


def made_up(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        ["layout.zero_stage=0"],
        ["layout.zero_stage=1"],
        ["layout.zero_stage=2"],
        ["layout.zero_stage=3"],
        ["layout.tensor_parallel_size=2", "layout.zero_stage=0"],
        ["layout.pipeline_parallel_size=2", "layout.zero_stage=1"],
        ["layout.zero_stage=1", "layout.precision=bf16"],
        ["layout.zero_stage=1", "layout.offload=optimizer"],
        ["layout.tensor_parallel_size=2", "layout.zero_stage=2", "layout.offload=optimizer"],
    ],
    ids=" ".join,
)
def test_what_goes_in_comes_out_whole(worlds: Worlds, overrides: list[str]) -> None:
    results = worlds(2).run(exchanged, overrides)
    shapes = layer_shapes(settings_of(overrides).model)
    for number, what in enumerate((WEIGHTS, *MOMENTS)):
        whole: dict[str, Tensor] = {}
        for found, counts in results:
            assert not whole.keys() & found[what].keys(), "each tensor is given to one process"
            assert counts == COUNTS
            whole |= found[what]
        for index, layer in enumerate(shapes):
            for name, value in made_up(layer, 10 * index + number).items():
                assert whole.pop(f"{index}.{name}").equal(value), f"{what} of {index}.{name}"
        assert not whole
