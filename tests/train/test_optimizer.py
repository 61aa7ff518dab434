"""Which parameters decay, by name."""

from dataclasses import replace

from conf.choices import Decay
from conf.compose import compose_settings
from conf.schema import ModelConfig
from model.build import build_layers
from parallel.engine import Stack
from train.optimizer import adamw, decays

BLOCK = ["mlp_bias", "norm.weight", "norm.bias", "in_proj.weight", "out_proj.weight", "out_proj.bias"]


def stack_of(model: ModelConfig) -> Stack:
    return Stack(*(build() for build in build_layers(model)))


def test_matrices_decay_and_vectors_do_not(tiny: ModelConfig) -> None:
    named = dict(stack_of(tiny).named_parameters())
    decayed = {name for name, parameter in named.items() if decays(name, parameter, Decay.matrices, tiny.n_layer)}
    blocks = {f"{block}.{product}_proj.weight" for block in (1, 2) for product in ("in", "out")}
    assert decayed == {"0.tokens.weight", *blocks, "3.weight"}


def test_jaxformer_spares_only_the_final_norm_and_the_heads_bias(tiny: ModelConfig) -> None:
    named = dict(stack_of(tiny).named_parameters())
    spared = {name for name, parameter in named.items() if not decays(name, parameter, Decay.jaxformer, tiny.n_layer)}
    assert spared == {"3.norm.weight", "3.norm.bias", "3.bias"}
    assert {f"1.{name}" for name in BLOCK} <= named.keys() - spared


def test_every_parameter_is_in_one_group(tiny: ModelConfig) -> None:
    stack = stack_of(tiny)
    settings = replace(compose_settings([]).optimizer, weight_decay=0.3, beta2=0.95)
    optimizer = adamw(list(stack.named_parameters()), settings, tiny.n_layer)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in stack.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert all(group["betas"] == (0.9, 0.95) and group["eps"] == 1e-8 for group in optimizer.param_groups)
