"""LayerNorm in Triton beside torch's in fp64; run with TRITON_INTERPRET=1 it needs no GPU, and does without bf16."""

import torch
from torch import Tensor

from model.kernels.triton_norm import triton_norm
from tests.model.kernels.interpreted import poisoned

SHAPES = [(1, 1, 8), (2, 21, 40), (1, 17, 80), (3, 5, 1024)]
EPSILON = 1e-5


def results(form: object, values: list[Tensor]) -> list[Tensor]:
    x, weight, bias = (value.detach().requires_grad_() for value in values[:3])
    y = form(x, weight, bias, EPSILON)  # type: ignore[operator]
    return [y.detach(), *torch.autograd.grad(y, (x, weight, bias), values[3])]


def in_torch(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, epsilon)


def inputs_of(shape: tuple[int, ...], device: str = "cpu") -> list[Tensor]:
    """x away from zero, weight, bias, and the gradient of the output, in fp64."""
    generator, d = torch.Generator(device).manual_seed(sum(shape)), shape[-1:]
    return [
        torch.randn(size, generator=generator, dtype=torch.float64, device=device) + shift
        for size, shift in ((shape, 1.5), (d, 1.0), (d, 0.0), (shape, 0.0))
    ]


def check_against_fp64(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, device: str = "cpu") -> None:
    values = [value.to(dtype) for value in inputs_of(shape, device)]
    with poisoned():
        found = results(triton_norm, values)
    expected = results(in_torch, [value.double() for value in values])
    for name, one, other in zip(("y", "x", "weight", "bias"), found, expected, strict=True):
        error = ((one.double() - other).abs().max() / other.abs().max()).item()
        assert one.dtype is dtype and error < tolerance, f"{shape} {dtype} {name}: {error:.2g}"


def check_not_contiguous(device: str = "cpu") -> None:
    x, weight, bias, gradient = (value.float() for value in inputs_of((4, 6, 16), device))
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1), weight, bias, gradient[:, :1].expand(4, 6, 16)]
    plain = [value.contiguous() for value in strided]
    for one, other in zip(results(triton_norm, plain), results(triton_norm, strided), strict=True):
        assert one.equal(other)


if __name__ == "__main__":
    for shape in SHAPES:
        check_against_fp64(shape, torch.float32, 3e-6)
        check_against_fp64(shape, torch.float16, 2e-3)
    check_not_contiguous()
    print("all equal")
