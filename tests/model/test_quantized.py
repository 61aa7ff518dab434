"""Quantized matrices against bitsandbytes' own, and under every cut that tensor parallelism makes."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # type: ignore[import-untyped]

from conf.choices import QuantizeFrozen
from model.quantized import QuantizedMatrix
from parallel.tensor_parallel import Shard

BITS = {QuantizeFrozen.int8: 8.5, QuantizeFrozen.nf4: 4.5}  # of a weight, with a scale of 32 bits for 64
ERROR = {QuantizeFrozen.int8: 0.008, QuantizeFrozen.nf4: 0.1}  # of the norm of normal weights


def weight_of(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)) * 0.02


@pytest.mark.parametrize("form", QuantizeFrozen)
def test_product_and_gradient_are_those_of_the_dequantized_matrix(form: QuantizeFrozen) -> None:
    weight = weight_of(192, 128)
    matrix = QuantizedMatrix(weight, form)
    whole = matrix.dequantized(torch.float32)
    assert 0 < float((whole - weight).norm() / weight.norm()) < ERROR[form]
    held = sum(buffer.numel() * buffer.element_size() for buffer in matrix.buffers())
    assert held * 8 == BITS[form] * weight.numel() and not list(matrix.parameters())
    x, other = (torch.ones(2, 3, 128, requires_grad=True) for _ in range(2))
    (matrix(x) ** 2).sum().backward()
    (torch.nn.functional.linear(other, whole) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=0, atol=0)


@pytest.mark.parametrize("form", QuantizeFrozen)
@pytest.mark.parametrize("shard", [Shard(0, (64, 128)), Shard(1, (128, 512))])
def test_a_ranks_slice_has_the_values_of_the_whole(form: QuantizeFrozen, shard: Shard) -> None:
    weight = weight_of(192, 640)
    whole = QuantizedMatrix(weight, form).dequantized(torch.float32)
    for rank in range(2):
        own = QuantizedMatrix(shard.slice(weight, rank, 2), form).dequantized(torch.float32)
        torch.testing.assert_close(own, shard.slice(whole, rank, 2), rtol=0, atol=0)


@pytest.mark.parametrize("form", QuantizeFrozen)
def test_a_cast_layer_keeps_its_scales(form: QuantizeFrozen) -> None:
    matrix = QuantizedMatrix(weight_of(64, 64), form)
    before = matrix.dequantized(torch.float32)
    torch.testing.assert_close(matrix.to(torch.bfloat16).dequantized(torch.float32), before, rtol=0, atol=0)
    x = torch.ones(1, 64, dtype=torch.bfloat16)
    assert matrix(x).dtype is torch.bfloat16


def test_nf4_is_bitsandbytes_and_int8_is_half_a_step_off_at_most() -> None:
    weight = weight_of(64, 128)
    four = dequantize_4bit(*quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    torch.testing.assert_close(QuantizedMatrix(weight, QuantizeFrozen.nf4).dequantized(torch.float32), four)
    eight = QuantizedMatrix(weight, QuantizeFrozen.int8).dequantized(torch.float32)
    steps = weight.view(-1, 64).abs().amax(dim=1, keepdim=True) / 127
    assert float(((eight - weight).view(-1, 64) / steps).abs().max()) < 0.51
    assert float((eight.view(-1, 64) / steps).sub((eight.view(-1, 64) / steps).round()).abs().max()) < 1e-3


def test_a_plan_needs_no_memory() -> None:
    matrix = QuantizedMatrix(torch.empty(1 << 16, 1 << 14, device="meta"), QuantizeFrozen.nf4)
    x = torch.empty(2, 1 << 14, device="meta", dtype=torch.bfloat16)
    assert matrix(x).shape == (2, 1 << 16) and matrix.codes.numel() == 1 << 29
