"""Weight gradients that go straight into an fp32 sum, and those that do not."""

import pytest
import torch
from torch import nn

from model.kernels.fp8 import FP8
from parallel.cross_entropy import LossOptions, chunked_cross_entropy
from parallel.main_gradient import add_product, attach, embedding, main_gradient, mark
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import TORCH, ColumnLinear, Products, RowLinear


def linear_layers(products: Products | None) -> nn.Sequential:
    """A column and a row layer in bf16, with the same weights each time."""
    tp = TensorParallelGroup()
    layers = nn.Sequential(ColumnLinear(16, (16, 32), tp, products), RowLinear((16, 32), 16, tp, products))
    generator = torch.Generator().manual_seed(0)
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return layers.bfloat16()


@pytest.mark.parametrize("products", [TORCH, FP8])
def test_the_sum_is_that_of_the_gradients(products: Products) -> None:
    plain, fused = linear_layers(products), linear_layers(products._replace(accumulates=True))
    added: list[int] = []
    weights = [fused[0].weight, fused[1].weight]
    for place, weight in enumerate(weights):
        attach(weight, torch.full((weight.numel(),), torch.nan), lambda place=place: added.append(place))
    for seed in (1, 2):
        x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(seed)).bfloat16()
        outs = [layers(x) for layers in (plain, fused)]
        assert outs[0].equal(outs[1])
        for out in outs:
            out.square().sum().backward()
    assert added == [1, 0, 1, 0] and all(weight.grad is None for weight in weights)
    torch.testing.assert_close(fused[1].bias.grad, plain[1].bias.grad)
    for place, weight in enumerate(weights):
        sums, expected = main_gradient(weight).total, plain[place].weight.grad.float()  # type: ignore[union-attr]
        assert sums.dtype is torch.float32
        torch.testing.assert_close(sums, expected, rtol=2**-7, atol=2**-7 * expected.abs().max().item())


def test_a_weight_that_no_layer_marks_has_none() -> None:
    weight = linear_layers(TORCH)[0].weight
    attach(weight, torch.zeros(weight.numel()), lambda: None)
    assert main_gradient(weight) is None


@pytest.mark.parametrize("chunk", [5, 100])
def test_the_loss_adds_its_weight_s_gradient_scaled(chunk: int) -> None:
    options = LossOptions(0.0, chunk, TensorParallelGroup())
    hidden, bias = torch.randn(2, 6, 8, requires_grad=True), torch.zeros(24, requires_grad=True)
    labels = torch.randint(0, 24, (2, 6))
    weight = nn.Parameter(torch.randn(24, 8))
    fused, added = mark(nn.Parameter(weight.detach().clone())), []
    attach(fused, torch.full((24 * 8,), torch.nan), lambda: added.append(True))
    for scale in (0.3, 0.5):
        for each in (weight, fused):
            (scale * chunked_cross_entropy(hidden, each, bias, labels, options)).backward()
    assert added == [True, True] and fused.grad is None
    torch.testing.assert_close(main_gradient(fused).total, weight.grad, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]


def test_a_gradient_computed_by_itself_is_written_first_and_then_added() -> None:
    counted: list[int] = []
    main = attach(nn.Parameter(torch.zeros(2, 3)), torch.full((6,), torch.nan), lambda: counted.append(1))
    for expected in (0.5, 1.0):
        main.add(torch.full((2, 3), 0.5, dtype=torch.bfloat16))
        assert main.total.equal(torch.full((2, 3), expected))
    main.empty = True
    main.add(torch.ones(2, 3))
    assert main.total.equal(torch.ones(2, 3)) and len(counted) == 3


def check_embedding(device: str) -> None:
    """Beside a dense gradient in fp32, where tokens repeat; in bf16 a thousand small gradients of a row are lost."""
    weight, added = mark(nn.Parameter(torch.randn(24, 8, device=device).bfloat16())), []
    attach(weight, torch.full((24 * 8,), torch.nan, device=device), lambda: added.append(True))
    plain = nn.Parameter(weight.detach().float())
    for ids in (torch.randint(0, 24, (2, 600), device=device), torch.full((3, 400), 7, device=device)):
        slope = torch.randn(*ids.shape, 8, device=device).bfloat16()
        found = embedding(ids, weight)
        assert found.equal(weight.detach()[ids])
        found.backward(slope)
        embedding(ids, plain).backward(slope.float())
    assert added == [True, True] and weight.grad is None
    torch.testing.assert_close(main_gradient(weight).total, plain.grad, rtol=1e-5, atol=1e-4)  # type: ignore[union-attr]


def test_an_embedding_adds_the_rows_that_it_was_asked_for_in_fp32() -> None:
    check_embedding("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_embedding_adds_in_one_order_on_a_gpu() -> None:
    check_embedding("cuda")
    sums = []
    for _ in range(3):
        torch.manual_seed(0)
        weight = mark(nn.Parameter(torch.randn(24, 64, device="cuda").bfloat16()))
        attach(weight, torch.empty(24 * 64, device="cuda"), lambda: None)
        ids = torch.randint(0, 24, (8, 2048), device="cuda")
        embedding(ids, weight).backward(torch.randn(8, 2048, 64, device="cuda").bfloat16())
        sums.append(main_gradient(weight).total.clone())  # type: ignore[union-attr]
    assert sums[0].equal(sums[1]) and sums[0].equal(sums[2])


def error_of_a_sum(dtype: torch.dtype, device: str) -> float:
    """Of the largest value, after two products in `dtype` went into an fp32 sum, the first over what was there."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, generator=generator).to(dtype) for size in ((40, 24), (40, 16)))
    total = torch.full((24, 16), torch.nan, device=device)
    add_product(total, a.t().to(device), b.to(device), empty=True)
    add_product(total, a.t().to(device), b.to(device))
    expected = 2 * (a.double().t() @ b.double())
    return float((total.cpu() - expected).abs().max() / expected.abs().max())


def test_a_product_is_added() -> None:
    assert error_of_a_sum(torch.float32, "cpu") < 1e-6
    assert error_of_a_sum(torch.bfloat16, "cpu") < 2**-8  # torch rounds the product to bf16 on a CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_product_is_added_on_a_gpu_without_rounding_it() -> None:
    assert error_of_a_sum(torch.bfloat16, "cuda") < 1e-5
