"""CodeGen's head is what the engine expects of a last layer."""

import inspect

import torch

from conf.schema import ModelConfig
from model.build import build_layers
from model.codegen import Head
from parallel.protocols import OutputLayer


def test_the_head_is_an_output_layer(tiny: ModelConfig) -> None:
    head = build_layers(tiny)[-1]()
    assert isinstance(head, OutputLayer)
    for name in ("forward", "loss", "logits"):
        expected = inspect.signature(getattr(OutputLayer, name)).parameters
        assert list(inspect.signature(getattr(Head, name)).parameters) == list(expected)
    assert not isinstance(torch.nn.Linear(2, 2), OutputLayer)
