"""Parameters and operations, counted, against the built layers and the published figures."""

from math import prod

import pytest

from conf.compose import compose_settings
from conf.schema import ModelConfig
from model.build import layer_shapes
from model.flops import flops_per_token, layer_flops, layer_parameters, matrix_parameters, parameters


def test_parameters_are_those_of_the_built_layers(tiny: ModelConfig) -> None:
    built = [sum(map(prod, layer.values())) for layer in layer_shapes(tiny)]
    assert layer_parameters(tiny) == built and parameters(tiny) == sum(built)
    matrices = sum(prod(shape) for layer in layer_shapes(tiny)[1:] for shape in layer.values() if len(shape) > 1)
    assert matrix_parameters(tiny) == matrices


@pytest.mark.parametrize(("size", "released"), [("350m", 356.7e6), ("2b", 2.779e9), ("6b", 7.064e9), ("16b", 16.032e9)])
def test_the_sizes_have_the_released_models_parameters(size: str, released: float) -> None:
    assert parameters(compose_settings([f"model={size}"]).model) == pytest.approx(released, rel=2e-4)


def test_training_costs_three_forward_passes(tiny: ModelConfig) -> None:
    assert 3 * sum(layer_flops(tiny)[1:]) == flops_per_token(tiny)
