"""Products in fp8: what a value becomes, and how near a product and its gradients stay to fp64."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conf.compose import compose_settings
from model.build import ALONE, run_layers
from model.init import init_layer
from model.kernels import REFERENCE, fp8
from model.kernels.fp8 import E4M3, E5M2, FP8, KEPT, kept_bytes, multiply, to_fp8
from parallel.main_gradient import attach
from parallel.tensor_parallel import ColumnLinear, Products, linear
from tests.worlds import Worlds, mesh_of
from train.schedule import learning_rate

HALF_STEP = {E4M3: 2.0**-4, E5M2: 2.0**-3}  # of a value: 3 and 2 digits after the leading one


@pytest.mark.parametrize("kind", [E4M3, E5M2])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 7e4, 1e30])
def test_a_value_comes_back_within_half_a_step(kind: torch.dtype, size: float) -> None:
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * size
    low, columns, inverse = to_fp8(x, kind)
    assert columns.float().equal(low.float().t())
    assert low.dtype is kind and inverse.log2() == inverse.log2().round()
    assert torch.finfo(kind).max / 2.0 < low.float().abs().max() <= torch.finfo(kind).max
    back, largest = low.float() * inverse, x.abs().max()
    smallest_normal = largest * torch.finfo(kind).smallest_normal / torch.finfo(kind).max * 2
    normal = x.abs() > smallest_normal
    assert normal.float().mean() > 0.99
    assert ((back - x).abs() / x.abs())[normal].max() <= HALF_STEP[kind]


def test_a_power_of_two_changes_no_digit() -> None:
    """So a slice with a scale of its own is rounded as the whole matrix is, but for the smallest values."""
    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    x[0, 0] = 1000.0
    whole, _, inverse = to_fp8(x, E4M3)
    part, _, own = to_fp8(x[16:], E4M3)
    normal = x[16:].abs() > 1000 * 2.0**-14
    assert own != inverse and (part.float() * own)[normal].equal((whole[16:].float() * inverse)[normal])


def product(a: Tensor, b: Tensor, gradient: bool = False) -> Tensor:
    """`a @ b.T` as the forward pass computes it, or, with a gradient, the backward pass."""
    left, right = to_fp8(a, E5M2 if gradient else E4M3), to_fp8(b, E4M3)
    return multiply(left.rows, left.inverse, right.rows, right.inverse, a.dtype, fast=not gradient)


def test_zeros_stay_and_what_is_not_finite_shows() -> None:
    assert product(torch.zeros(3, 16), torch.zeros(5, 16)).equal(torch.zeros(3, 5))
    for bad in (float("nan"), float("inf")):
        x = torch.ones(3, 16)
        x[1, 2] = bad
        for found in (product(x, torch.ones(5, 16)), product(torch.ones(5, 16), x, True)):
            assert not found.isfinite().all()


def both_gradients(x: Tensor, weight: Tensor, gradient: Tensor, products: Products | None) -> list[Tensor]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = linear(x, weight, products=products)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


def check_against_fp64(device: str, dtype: torch.dtype, rows: tuple[int, ...] = (2, 24)) -> None:
    """Relative error in the Frobenius norm: 2^-4 of E4M3 or 2^-3 of E5M2 at most, evenly below, two operands."""
    generator = torch.Generator().manual_seed(2)
    exact = [torch.randn(*size, generator=generator).to(dtype) for size in ((*rows, 64), (48, 64), (*rows, 48))]
    expected = both_gradients(*(value.double() for value in exact), None)
    found = both_gradients(*(value.to(device) for value in exact), FP8)
    for name, one, other, bound in zip(("y", "x", "weight"), found, expected, (0.06, 0.1, 0.1), strict=True):
        error = ((one.cpu().double() - other).norm() / other.norm()).item()
        assert one.dtype is dtype and bound / 10 < error < bound, f"{name}: {error:.3f}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_gradients_are_near_fp64(dtype: torch.dtype) -> None:
    check_against_fp64("cpu", dtype)


def test_the_emulation_is_what_torch_computes() -> None:
    """torch's own fp8 product, which has a slow form for CPUs."""
    a, b = torch.randn(32, 64), torch.randn(48, 64)
    for gradient, kind in ((False, E4M3), (True, E5M2)):
        (left, _, scale_a), (right, _, scale_b) = to_fp8(a, kind), to_fp8(b, E4M3)
        expected = torch._scaled_mm(left, right.t(), scale_a, scale_b, out_dtype=torch.float32)
        torch.testing.assert_close(product(a, b, gradient), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_is_cast_once_a_step_and_anew_once_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of two micro-batches; the other layer casts its weight twice in each."""
    kept, plain = (ColumnLinear(32, (48,), ALONE, form) for form in (KEPT, FP8._replace(accumulates=True)))
    cast: list[int] = []
    monkeypatch.setattr(fp8, "to_fp8", lambda x, *how, **which: cast.append(id(x)) or to_fp8(x, *how, **which))
    weights = [layer.weight for layer in (kept, plain)]
    sums = [attach(weight, torch.full((48 * 32,), torch.nan), lambda: None) for weight in weights]
    generator = torch.Generator().manual_seed(4)
    for size in (1.0, 3.0):
        for weight in weights:
            weight.data = torch.full((48, 32), size).addcdiv(torch.eye(48, 32), torch.tensor(size))
        for _ in range(2):
            x = torch.randn(2, 8, 32, generator=generator)
            inputs = [x.clone().requires_grad_() for _ in weights]
            outs = [layer(each) for layer, each in zip((kept, plain), inputs, strict=True)]
            assert outs[0].equal(outs[1])
            for out in outs:
                out.square().sum().backward()
            assert inputs[0].grad.equal(inputs[1].grad)
        assert sums[0].total.equal(sums[1].total)
        for total in sums:
            total.end_step()
    assert [cast.count(id(weight)) for weight in weights] == [2, 8]
    assert kept_bytes(nn.Sequential(kept, plain)) == 2 * 48 * 32


def test_compiled_is_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(*size, generator=generator) for size in ((2, 8, 32), (48, 32), (2, 8, 48))]
    compiled = torch.compile(lambda *v: both_gradients(*v, FP8), dynamic=False, backend="aot_eager")
    for one, other in zip(compiled(*values), both_gradients(*values, FP8), strict=True):
        torch.testing.assert_close(one, other)


def loss_curve(precisions: list[str], steps: int = 200, batch: int = 2, length: int = 64) -> list[float]:
    """The loss at each step of the quickstart's model on the bytes of Python's own sources, its weights in bf16 as the
    engine keeps them, its fp32 copies stepped on by the quickstart's AdamW and schedule, at a quarter of its rate for
    batches of a thirty-second of its tokens. precisions: by process."""
    precision = precisions[mesh_of(1, 1).dp_rank]
    settings = compose_settings(["experiment=quickstart", f"layout.precision={precision}"])
    layers = nn.Sequential(*(build() for build in run_layers(settings, ALONE, REFERENCE)))
    for index, layer in enumerate(layers):
        init_layer(layer, index, settings.model, ALONE, 0)
    layers.bfloat16().train()
    weights = list(layers.parameters())
    masters = [weight.detach().float().requires_grad_() for weight in weights]
    stage = replace(settings.stages["nl"], steps=steps, anneal_steps=steps - settings.stages["nl"].warmup_steps)
    optimizer = torch.optim.AdamW(masters, weight_decay=settings.optimizer.weight_decay, fused=True)
    text = b"".join(path.read_bytes() for path in sorted(Path(json.__file__).parent.glob("*.py")))
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    draw, losses = torch.Generator().manual_seed(0), []
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = learning_rate(stage, step) / 4
        starts = torch.randint(0, len(ids) - length, (batch, 1), generator=draw)
        rows = ids[starts + torch.arange(length + 1)]
        loss = layers[-1](layers[:-1](rows[:, :-1]), rows[:, 1:])
        loss.backward()
        losses.append(loss.item())
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        nn.utils.clip_grad_norm_(masters, settings.optimizer.gradient_clipping)
        optimizer.step()
        torch._foreach_copy_([weight.data for weight in weights], [master.data for master in masters])
    return losses


def test_two_hundred_steps_follow_the_curve_of_bf16(worlds: Worlds) -> None:
    """Within 0.5%, in the mean of each ten steps: a step's own loss is of 128 tokens."""
    curves = torch.tensor(worlds(2).run(loss_curve, ["bf16", "fp8"])).view(2, 20, 10).mean(dim=2)
    bf16, fp8 = curves
    assert bf16[-1] < bf16[0] / 1.5  # it learns
    apart = (fp8 / bf16 - 1).abs().max().item()
    assert 0 < apart < 0.005, f"{apart:.3%}: {curves.tolist()}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnGPU:
    """Casts and products of the tensor cores are those of the emulation."""

    def test_products_and_gradients_are_near_fp64(self) -> None:
        check_against_fp64("cuda", torch.bfloat16)
        check_against_fp64("cuda", torch.bfloat16, (3, 2048 + 16))

    @pytest.mark.parametrize("gradient", [False, True])
    def test_products_are_those_of_the_emulation(self, gradient: bool) -> None:
        generator = torch.Generator().manual_seed(4)
        a, b = (torch.randn(rows, 512, generator=generator).bfloat16() for rows in (2048, 1024))
        found, expected = product(a.cuda(), b.cuda(), gradient).cpu(), product(a, b, gradient)
        torch.testing.assert_close(found.float(), expected.float(), rtol=1e-2, atol=0.05)

    def test_a_matrix_is_cast_as_on_a_cpu(self) -> None:
        x = torch.randn(200, 328, generator=torch.Generator().manual_seed(5)).bfloat16() * 30
        for kind in (E4M3, E5M2):
            for found, expected in zip(to_fp8(x.cuda(), kind), to_fp8(x, kind), strict=True):
                assert found.cpu().float().equal(expected.float())
