"""Adapters beside a product are the product of the merged weight; parity with PEFT is in tests/parity/test_lora.py."""

import pytest
import torch

from conf.compose import compose_settings
from conf.schema import ModelConfig
from model.build import ALONE, build_layers
from model.init import init_layer
from model.lora import LoraColumn, LoraRow, delta, is_adapter


@pytest.mark.parametrize("targets", ["qkv_proj,fc_out", "fc_in", "out_proj", "qkv_proj,out_proj,fc_in,fc_out"])
def test_products_are_those_of_merged_weights(targets: str, tiny: ModelConfig) -> None:
    finetune = compose_settings(["finetune=lora", "finetune.rank=3", f"finetune.targets=[{targets}]"]).finetune
    embedding, block, *_, head = (build() for build in build_layers(tiny, finetune=finetune))
    assert not any(p.requires_grad for layer in (embedding, head) for p in layer.parameters())
    init_layer(block, 1, tiny, ALONE, 5)
    named = dict(block.named_parameters())
    trained = {name for name, parameter in named.items() if parameter.requires_grad}
    assert trained == {name for name in named if is_adapter(name)}
    assert {name.split(".")[2] for name in trained} == set(targets.split(","))
    x = {"in_proj": torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))}
    x["out_proj"] = torch.randn(2, 5, 160, generator=torch.Generator().manual_seed(2))
    for product, kind in (("in_proj", LoraColumn), ("out_proj", LoraRow)):
        layer = getattr(block, product)
        assert isinstance(layer, kind)
        bias = getattr(layer, "bias", None)
        plain = torch.nn.functional.linear(x[product], layer.weight, bias)
        torch.testing.assert_close(layer(x[product]), plain, msg="new adapters add nothing")
        for name, parameter in layer.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter)
        added = delta(named, product, tuple(layer.weight.shape), finetune)
        if added is None:
            assert not any(name.startswith(product) for name in trained)
            continue
        expected = torch.nn.functional.linear(x[product], layer.weight + added, bias)
        assert not torch.allclose(plain, expected)
        torch.testing.assert_close(layer(x[product]), expected, rtol=1e-5, atol=1e-4)
