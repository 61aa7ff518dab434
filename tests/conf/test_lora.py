"""LoRA's settings: what is refused in one line, and how large adapters are."""

from dataclasses import replace
from math import prod

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.inputs import check_inputs
from conf.lora import adapter_parameters, trained_layers
from conf.save_time import checkpoint_bytes
from conf.schema import FinetuneConfig
from model.build import layer_shapes
from model.flops import flops_per_token, matrix_parameters


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune.rank=0"], "finetune.rank=0 must be at least 1"),
        (["finetune.alpha=0"], "finetune.alpha=0.0 must be more than 0"),
        (["finetune.targets=[]"], r"finetune.targets=\[\] must name some of a block's products: qkv_proj, out_proj,"),
        (["finetune.targets=[q_proj]"], r"finetune.targets=\['q_proj'\] must name some"),
        (["layout.precision=fp8"], "layout.precision=fp8 does not work with finetune=lora .* use bf16"),
        (["layout.regather_sequence=true"], "layout.regather_sequence=true does not work with finetune=lora"),
        (["stages.multi.handover=full"], "stages.multi.handover=full does not work with finetune=lora"),
        (
            ["finetune.quantize=nf4", "layout.zero_stage=3"],
            "finetune.quantize=nf4 does not work with layout.zero_stage=3",
        ),
        (
            ["finetune.quantize=int8", "model.n_embd=96"],
            "shares a scale among 64 inputs, .* model.n_embd=96 on .*=1 ranks",
        ),
        (["finetune.quantize=int4"], "finetune.quantize"),
        (
            ["finetune.kind=full", "finetune.quantize=nf4"],
            "finetune.quantize=nf4 freezes the weights, and needs finetune=lora",
        ),
        (["load_in_4bit=true"], "unknown setting 'load_in_4bit'; did you mean 'finetune.quantize'"),
        (["finetune.dropout=0.1"], "unknown setting 'finetune.dropout'"),
        (["lora_alpha=8"], "unknown setting 'lora_alpha'; did you mean 'finetune.alpha'"),
    ],
)
def test_what_does_not_work_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        compose_settings(["finetune=lora", *words])
    assert "\n" not in str(caught.value)


def test_random_weights_are_not_adapted() -> None:
    with pytest.raises(ConfigError, match=r"finetune=lora needs weights to adapt; set stages\.nl\.init_from="):
        check_inputs(compose_settings(["finetune=lora"]))


def test_adapters_are_what_a_checkpoint_holds() -> None:
    settings = compose_settings(["model=6b", "finetune=lora", "finetune.targets=[qkv_proj,fc_out]"])
    model, finetune = settings.model, settings.finetune
    shapes = layer_shapes(model, finetune)
    found = sum(prod(shape) for layer in shapes for shape in layer.values())
    assert found == adapter_parameters(model, finetune) == 33 * 16 * (4096 + 3 * 4096 + 4 * 4096 + 4096)
    assert checkpoint_bytes(model, finetune) == 12 * found
    assert [bool(layer) for layer in shapes] == trained_layers(settings) == [False, *[True] * 33, False]
    saved = 2 * matrix_parameters(model) - 6 * found
    assert flops_per_token(model) - flops_per_token(model, finetune) == saved


def test_a_run_of_an_older_version_trained_every_weight() -> None:
    settings = compose_settings([])
    assert settings.finetune == FinetuneConfig() and all(trained_layers(settings))
    assert compose_settings(["finetune=lora"]).finetune == replace(FinetuneConfig(), kind=settings.finetune.kind.lora)
