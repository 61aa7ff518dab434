"""The model is CodeGen: Hugging Face's, to the last logit, loss and gradient, and the published sizes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CodeGenForCausalLM

from conf.choices import IGNORE_INDEX, Recompute
from conf.compose import compose_settings
from conf.schema import ModelConfig
from model.build import build_layers
from model.codegen import Block, Head
from model.flops import flops_per_token, matrix_parameters, parameters
from model.huggingface import from_huggingface, to_huggingface
from model.init import init_layer
from model.kernels import REFERENCE, Kernels
from model.kernels.attention import sdpa_attention
from parallel.engine import Stack
from parallel.mesh import TensorParallelGroup
from tests.twin import MP_NUM, config_of, twin_of

ALONE = TensorParallelGroup()


def build(model: ModelConfig, kernels: Kernels = REFERENCE, z_loss: float = 0.0, chunk: int = 7, **keys) -> Stack:
    recompute = keys.get("recompute", Recompute.none)
    built = [builder() for builder in build_layers(model, ALONE, kernels, recompute, z_loss, chunk)]
    for index, layer in enumerate(built):
        init_layer(layer, index, model, ALONE, seed=5)
        for parameter in layer.parameters():  # norms and biases away from 1 and 0, or a wrong one would not show
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return Stack(*built)


def build_huggingface(model: ModelConfig, stack: Stack) -> CodeGenForCausalLM:
    return twin_of(model, [{name: p.detach() for name, p in layer.named_parameters()} for layer in stack])


SHAPES = [
    {"n_layer": 1, "n_embd": 32, "n_head": 4, "rotary_dim": 8, "vocab_size": 64, "context_length": 16},
    {"n_layer": 2, "n_embd": 48, "n_head": 4, "rotary_dim": 4, "vocab_size": 80, "context_length": 24},
    {"n_layer": 3, "n_embd": 64, "n_head": 8, "rotary_dim": 6, "vocab_size": 96, "context_length": 33},
]


SDPA = replace(REFERENCE, attention=sdpa_attention)


@pytest.mark.parametrize("kernels", [REFERENCE, SDPA], ids=["reference", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['n_layer']}x{shape['n_embd']}")
def test_logits_loss_and_every_gradient_equal_huggingface(tiny: ModelConfig, shape: dict, kernels: Kernels) -> None:
    model = replace(tiny, **shape)
    stack = build(model, kernels)
    twin = build_huggingface(model, stack)
    ids = torch.randint(0, model.vocab_size, (3, model.context_length), generator=torch.Generator().manual_seed(0))

    theirs = twin(ids, labels=ids)
    loss = stack.train()(ids[:, :-1], ids[:, 1:])
    hidden = stack(ids)
    logits = hidden @ stack[-1].weight.T + stack[-1].bias

    torch.testing.assert_close(logits, theirs.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-5, atol=0)
    loss.backward()
    theirs.loss.backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
    for index, layer in enumerate(stack):
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
        wanted = from_huggingface(index, expected, model, MP_NUM)
        assert gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            scale = wanted[name].abs().max().item()
            torch.testing.assert_close(
                gradient, wanted[name], rtol=1e-5, atol=1e-5 * scale, msg=lambda m: f"{index}.{name}: {m}"
            )


def test_huggingface_form_and_back_is_bit_identical(tiny: ModelConfig) -> None:
    stack = build(tiny)
    for index, layer in enumerate(stack):
        tensors = {name: parameter.detach() for name, parameter in layer.named_parameters()}
        back = from_huggingface(index, to_huggingface(index, tensors, tiny, MP_NUM), tiny, MP_NUM)
        assert tensors.keys() == back.keys()
        assert all(torch.equal(tensors[name], back[name]) for name in tensors)


def test_value_stands_in_the_middle_of_each_released_group(tiny: ModelConfig) -> None:
    d = tiny.n_embd
    rows = torch.arange(7.0 * d).unsqueeze(1).expand(7 * d, d).contiguous()
    layer = {name: p.detach() for name, p in Block(tiny, ALONE, REFERENCE, Recompute.none, 1).named_parameters()}
    released = to_huggingface(1, {**layer, "in_proj.weight": rows}, tiny, MP_NUM)[
        "transformer.h.0.attn.qkv_proj.weight"
    ]
    group = released[:, 0].view(MP_NUM, 3, d // MP_NUM)
    assert group[1, 0, 0] == d // MP_NUM  # q of the second group
    assert group[1, 1, 0] == 2 * d + d // MP_NUM  # v
    assert group[1, 2, 0] == d + d // MP_NUM  # k


PUBLISHED = {
    "350m": 356_712_448,
    "2b": 2_779_356_160,
    "6b": 7_064_213_504,
    "16b": 16_032_155_648,
    "codegen2-1b": 1_015_306_240,
    "codegen2-3.7b": 3_641_174_016,
    "codegen2-7b": 6_862_858_240,
    "codegen2-16b": 16_032_155_648,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_parameter_counts(size: str) -> None:
    model = compose_settings([f"model={size}"]).model
    with torch.device("meta"):
        built = [build() for build in build_layers(model)]
        released = sum(p.numel() for p in CodeGenForCausalLM(config_of(model)).parameters())
    count = sum(p.numel() for layer in built for p in layer.parameters())
    assert count == parameters(model) == released == PUBLISHED[size]


def test_flops_count_every_multiplied_parameter(tiny: ModelConfig) -> None:
    stack = build(tiny)
    multiplied = sum(p.numel() for n, p in stack.named_parameters() if p.dim() == 2 and not n.endswith("tokens.weight"))
    assert matrix_parameters(tiny) == multiplied
    assert flops_per_token(tiny) == 6 * multiplied + 12 * tiny.n_layer * tiny.n_embd * tiny.context_length


def test_recomputing_a_block_changes_nothing(tiny: ModelConfig) -> None:
    ids = torch.randint(0, tiny.vocab_size, (2, 17))
    gradients = []
    for recompute in (Recompute.none, Recompute.full):
        stack = build(tiny, recompute=recompute).train()
        stack(ids[:, :-1], ids[:, 1:]).backward()
        gradients.append([p.grad for p in stack.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_head_in_evaluation_sums_the_plain_cross_entropy(tiny: ModelConfig) -> None:
    stack = build(tiny, z_loss=0.1)
    ids = torch.randint(0, tiny.vocab_size, (2, 17))
    head = stack[-1]
    assert isinstance(head, Head)
    stack.eval()
    hidden = stack(ids[:, :-1])
    expected = torch.nn.functional.cross_entropy(
        (hidden @ head.weight.T + head.bias).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(stack(ids[:, :-1], ids[:, 1:]), expected)


def test_a_micro_batch_with_fewer_tokens_weighs_less(tiny: ModelConfig) -> None:
    """Every token of a step weighs the same, however the labels that count fall on its micro-batches."""
    ids = torch.randint(0, tiny.vocab_size, (4, 17), generator=torch.Generator().manual_seed(3))
    labels = ids[:, 1:].clone()
    labels[2:, 3:] = IGNORE_INDEX
    gradients = []
    for size in (4, 2, 1):
        stack = build(tiny).train()
        for start in range(0, 4, size):
            rows = slice(start, start + size)
            (stack(ids[rows, :-1], labels[rows]) * size / 4).backward()
        gradients.append([p.grad for p in stack.parameters()])
    for whole, halves, quarters in zip(*gradients, strict=True):
        torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(quarters, whole, rtol=1e-4, atol=1e-7)


def test_every_tensor_is_on_the_model_s_device() -> None:
    """On a device that does not exist, in a process of its own: such a device stays registered."""
    command = [sys.executable, "-m", "tests.model.fake_device"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "all on the device\n", done.stderr[-3000:]
