"""The Triton form of the block's middle beside the reference in fp64, by Triton's interpreter: run with
TRITON_INTERPRET=1, which counts when the kernels are imported. The interpreter gets bf16 wrong, so fp32 and fp16 here;
a GPU runs the same checks in bf16 too."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from conf.choices import Recompute
from conf.compose import compose_settings
from model.build import build_layers
from model.init import init_layer
from model.kernels import REFERENCE
from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.branches import reference_branches
from model.kernels.documents import masked_documents
from model.kernels.triton_branches import triton_branches
from model.rotary import rotary_table
from parallel.mesh import TensorParallelGroup

ROOT = Path(__file__).parents[3]
SHAPES = [  # batch, seq, heads, head_dim, rotary_dim
    (1, 1, 1, 8, 4),
    (2, 21, 3, 16, 16),
    (1, 17, 5, 80, 64),  # 2B's heads
    (2, 3, 5, 256, 64),  # wider than one program; 16B's heads
]


def run(module: str) -> None:
    """In a process of its own: whether kernels are interpreted is decided when they are imported."""
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and done.stdout.endswith("all equal\n"), done.stderr[-3000:]


@contextmanager
def poisoned() -> Iterator[None]:
    """What torch.empty gives is nan, so a value that no kernel wrote shows."""
    empty, empty_like = torch.Tensor.new_empty, torch.empty_like
    torch.Tensor.new_empty = lambda self, *size, **keys: empty(self, *size, **keys).fill_(float("nan"))  # type: ignore
    torch.empty_like = lambda value, **keys: empty_like(value, **keys).fill_(float("nan"))  # type: ignore
    try:
        yield
    finally:
        torch.Tensor.new_empty, torch.empty_like = empty, empty_like  # type: ignore[method-assign]


def results(
    form: Callable[..., Tensor], inputs: list[Tensor], heads: int, attention: Callable[..., Tensor]
) -> list[Tensor]:
    """The output, and the gradients of projected and bias for a random gradient of the output."""
    projected, bias, table, gradient = inputs
    projected, bias = projected.detach().requires_grad_(), bias.detach().requires_grad_()
    out = form(projected, bias, table, heads, attention)
    out.backward(gradient)
    assert projected.grad is not None and bias.grad is not None
    return [out.detach(), projected.grad, bias.grad]


def inputs_of(shape: tuple[int, ...], seed: int, device: str = "cpu") -> tuple[list[Tensor], int]:
    batch, seq, heads, head_dim, rotary_dim = shape
    d, generator = heads * head_dim, torch.Generator(device).manual_seed(seed)
    sizes = ((batch, seq, 7 * d), (4 * d,), (batch, seq, 5 * d))
    projected, bias, gradient = (
        torch.randn(size, generator=generator, dtype=torch.float64, device=device) for size in sizes
    )
    return [projected, bias, rotary_table(seq + 3, rotary_dim, torch.device(device)), gradient], heads


def check_against_fp64(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, device: str = "cpu") -> None:
    exact, heads = inputs_of(shape, seed=sum(shape), device=device)
    rounded = [value.to(dtype) if value.dtype == torch.float64 else value for value in exact]
    in_fp64 = [value.double() for value in rounded]
    for attention in (reference_attention, sdpa_attention):
        expected = results(reference_branches, in_fp64, heads, attention)
        found = results(triton_branches, rounded, heads, attention)
        for name, one, other in zip(("out", "projected", "bias"), found, expected, strict=True):
            scale = other.abs().max()
            error = ((one.double() - other).abs().max() / scale).item()
            assert one.dtype is dtype and error < tolerance, f"{shape} {dtype} {name}: {error:.2g}"


def check_not_contiguous(device: str = "cpu") -> None:
    (projected, bias, table, gradient), heads = inputs_of((2, 5, 2, 8, 4), 1, device)
    plain = [value.float() for value in (projected, bias, table, gradient)]
    strided = [plain[0].transpose(0, 1).contiguous().transpose(0, 1), plain[1], torch.stack([plain[2]] * 2, 1)[:, 0]]
    strided.append(plain[3].repeat(1, 1, 2)[..., ::2].copy_(plain[3]))
    assert not any(value.is_contiguous() for value in (strided[0], strided[2], strided[3]))
    for one, other in zip(*(results(triton_branches, v, heads, sdpa_attention) for v in (plain, strided)), strict=True):
        assert one.equal(other)


def check_documents(device: str = "cpu") -> None:
    """The angles of each token, where positions restart within a sample, and a mask."""
    (projected, bias, table, gradient), heads = inputs_of((2, 21, 3, 16, 8), 4, device)
    documents = masked_documents(torch.tensor([[*range(5), *range(16)], [*range(20), 0]], device=device))
    angles = table[:, documents.positions].unsqueeze(2)
    plain = [value.float() for value in (projected, bias, angles, gradient)]
    forms = [partial(form, attention_mask=documents.mask) for form in (triton_branches, reference_branches)]
    found, expected = (results(form, plain, heads, reference_attention) for form in forms)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def check_every_value_is_written(device: str = "cpu") -> None:
    inputs, heads = inputs_of((1, 19, 3, 24, 8), 2, device)
    rounded = [value.float() for value in inputs]
    with poisoned():
        found = results(triton_branches, rounded, heads, reference_attention)
    assert all(bool(value.isfinite().all()) for value in found)


def check_what_is_kept() -> None:
    """For the backward pass: `projected` (7d a token), rotated q and k, attention's output (1 d) and its statistics."""
    inputs, heads = inputs_of((2, 16, 4, 16, 8), seed=3)
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    projected, bias, table, _ = (value.float().requires_grad_(value.dtype == torch.float64) for value in inputs)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        triton_branches(projected, bias, table, heads, sdpa_attention)
    tokens, d = 2 * 16, 4 * 16
    small = bias.nbytes + table.nbytes + tokens * heads * 4
    assert sum(kept.values()) <= 10 * d * tokens * 4 + small, kept


def check_model(recompute: Recompute) -> None:
    """Loss and gradients of a whole model, twice in a row, with either form."""
    model = replace(
        compose_settings(["model=tiny"]).model,
        n_layer=2, n_embd=32, n_head=4, rotary_dim=4, vocab_size=96, context_length=12,
    )  # fmt: skip
    ids = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))
    gradients = []
    for branches in (reference_branches, triton_branches):
        layers = [
            build() for build in build_layers(model, kernels=replace(REFERENCE, branches=branches), recompute=recompute)
        ]
        for index, layer in enumerate(layers):
            init_layer(layer, index, model, TensorParallelGroup(), seed=7)
        for _ in range(2):
            x = ids
            for layer in layers[:-1]:
                x = layer(x)
            loss = layers[-1](x, ids)
            loss.backward()
        named = [
            (f"{index}.{name}", p.grad) for index, layer in enumerate(layers) for name, p in layer.named_parameters()
        ]
        gradients.append([("loss", loss.detach()), *named])
    for (name, one), (_, other) in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


if __name__ == "__main__":
    for shape in SHAPES:
        check_against_fp64(shape, torch.float32, 2e-6)
        check_against_fp64(shape, torch.float16, 4e-3)
    check_not_contiguous()
    check_documents()
    check_every_value_is_written()
    check_what_is_kept()
    for recompute in Recompute:
        check_model(recompute)
    print("all equal")
