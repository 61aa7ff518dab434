"""Frozen matrices in 8 or 4 bits, for adapters beside them: QLoRA (Dettmers et al., arXiv 2305.14314).

bitsandbytes quantizes: each `BLOCK` of a row's inputs has a scale, so that a rank's slice of a matrix has the values
that the whole one has. A product dequantizes the matrix in the precision of its input, in both directions; nothing of
that is kept.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from conf.choices import QuantizeFrozen
from conf.lora import BLOCK


class QuantizedMatrix(nn.Module):
    """`weight` `[out, in]` in the codes of `form`: int8, 256 steps of equal size, or nf4, packed two in a byte.

    Both tensors are bytes, since a layer that is cast to another precision would round the scales.
    """

    codes: Tensor  # [out * in], or half as many
    scales: Tensor  # fp32, one a block, as bytes

    def __init__(self, weight: Tensor, form: QuantizeFrozen) -> None:
        super().__init__()
        self.form, self.shape = form, weight.shape
        codes, scales = _quantize(weight.detach(), form)
        self.register_buffer("codes", codes.flatten(), persistent=False)
        self.register_buffer("scales", scales.view(torch.uint8), persistent=False)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The matrix `[out, in]`."""
        operations, scales = torch.ops.bitsandbytes, self.scales.view(torch.float32)
        if self.form is QuantizeFrozen.nf4:
            return operations.dequantize_4bit(self.codes, scales, BLOCK, "nf4", self.shape, dtype)  # type: ignore[no-any-return]
        flat = operations.dequantize_blockwise(self.codes, scales, _steps(self.codes.device), BLOCK, dtype)
        return flat.view(self.shape)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """x `[..., in]` -> `x @ weight.T` `[..., out]`."""
        product: Any = _Product.apply
        return product(x, self)  # type: ignore[no-any-return]


def elements(layer: nn.Module) -> int:
    """How many weights `layer` has, those of quantized matrices among them."""
    quantized = sum(module.shape.numel() for module in layer.modules() if isinstance(module, QuantizedMatrix))
    return quantized + sum(parameter.numel() for parameter in layer.parameters())


class _Product(torch.autograd.Function):
    """`x @ weight.T`, whose backward pass dequantizes the matrix again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: QuantizedMatrix) -> Tensor:
        ctx.matrix = matrix
        return nn.functional.linear(x, matrix.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.matrix.dequantized(gradients[0].dtype), None


def _quantize(weight: Tensor, form: QuantizeFrozen) -> tuple[Tensor, Tensor]:
    """(codes, scales in fp32)."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it looks for a kernel not used here
    import bitsandbytes  # noqa: F401  # slow, and it defines the operations

    if form is QuantizeFrozen.nf4:
        return torch.ops.bitsandbytes.quantize_4bit(weight, BLOCK, "nf4", torch.uint8)  # type: ignore[no-any-return]
    return torch.ops.bitsandbytes.quantize_blockwise(weight, _steps(weight.device), BLOCK)  # type: ignore[no-any-return]


def _steps(device: torch.device) -> Tensor:
    """What int8's codes stand for, in parts of a block's largest value."""
    return torch.arange(-128, 128, dtype=torch.float32, device=device).clamp_(min=-127) / 127
