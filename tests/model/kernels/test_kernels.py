"""The forms of a run are those that conf/kernels names."""

import pytest
import torch

from conf.compose import compose_settings
from model.kernels import REFERENCE, select_kernels
from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.cpu_attention import blocked_attention


@pytest.mark.parametrize(
    ("choice", "attention", "compile"),
    [("reference", reference_attention, False), ("eager", sdpa_attention, False), ("auto", sdpa_attention, True)],
)
def test_the_forms_of_each_choice(choice: str, attention: object, compile: bool) -> None:
    config = compose_settings([f"kernels={choice}"]).kernels
    kernels = select_kernels(config)
    assert (kernels.attention, kernels.compile) == (attention, compile)
    assert kernels.describe()["compile"] == ("inductor" if compile else "off")
    on_cpu = select_kernels(config, torch.device("cpu")).attention
    assert on_cpu is (blocked_attention if attention is sdpa_attention else attention)


def test_an_operation_is_chosen_by_itself() -> None:
    chosen = select_kernels(compose_settings(["kernels=auto", "kernels.attention=reference"]).kernels)
    assert chosen.attention is REFERENCE.attention and chosen.compile
    assert REFERENCE.describe() == {
        "attention": "reference_attention",
        "branches": "reference_branches",
        "norm": "torch",
        "weight_gradient": "torch",
        "optimizer": "torch",
        "compile": "off",
    }
