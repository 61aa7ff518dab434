"""LoRA (Hu et al., arXiv 2106.09685): adapters of low rank on a block's two products, whose own weights are frozen.

Each of the four modules of Hugging Face's block has its own pair of matrices, so that a run is PEFT's run: the fused
product in holds qkv_proj and fc_in, the one out out_proj and fc_out. Tensor parallelism cuts the matrix of a pair that
lies on the cut side of its product; the other is whole on every rank. Adapters add no collective to a block but the sum
of that matrix's gradient.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from conf.schema import FinetuneConfig
from model.quantized import QuantizedMatrix
from parallel.collectives import enter_column, leave_row, replicated, sum_gradient
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import ColumnLinear, Products, RowLinear, Shard, linear, sharded

PREFIX = "adapters."  # in the names of their parameters: "in_proj.adapters.fc_in.lora_A"


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return PREFIX in name


def freeze_weights(layer: nn.Module) -> nn.Module:
    """Have only the adapters of `layer` trained."""
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    return layer


def quantize_frozen(layer: nn.Module, finetune: FinetuneConfig) -> nn.Module:
    """Put the matrices beside the adapters of `layer`, whose weights are set, in `finetune.quantize`'s form."""
    if finetune.quantize is not None:
        for product in layer.modules():
            if isinstance(product, LoraColumn | LoraRow):
                product.quantized = QuantizedMatrix(product.weight, finetune.quantize)
                product.register_parameter("weight", None)
    return layer


def adapted(layer: partial[nn.Module], finetune: FinetuneConfig) -> partial[nn.Module]:
    """A builder of blocks -> one of blocks with adapters."""
    return partial(layer, column=partial(LoraColumn, finetune=finetune), row=partial(LoraRow, finetune=finetune))


class Adapter(nn.Module):
    """`alpha / rank * x @ A.T @ B.T` in parallel to a product: x `[..., in]` -> `[..., out]`.

    lora_A `[rank, in]`, lora_B `[out, rank]`, by PEFT's names. cut: how tensor ranks share the outputs (its dim is 0),
    or x (1): a rank gives its part of the outputs, or its part of their sum.
    """

    def __init__(
        self, in_features: int, out_features: int, finetune: FinetuneConfig, tp: TensorParallelGroup, cut: Shard
    ) -> None:
        super().__init__()
        self.tp = tp
        self.scale = finetune.alpha / finetune.rank
        self.cuts_outputs = cut.dim == 0
        rows, columns = out_features, in_features
        if self.cuts_outputs:
            rows //= tp.size
        else:
            columns //= tp.size
        self.lora_A = nn.Parameter(torch.empty(finetune.rank, columns))
        self.lora_B = nn.Parameter(torch.empty(rows, finetune.rank))
        sharded(self.lora_B if self.cuts_outputs else self.lora_A, cut, tp)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as in the class."""
        first: Tensor = self.lora_A
        second: Tensor = self.lora_B
        if self.cuts_outputs:
            first = sum_gradient(first, self.tp)
        else:
            second = sum_gradient(second, self.tp)
        return linear(linear(x, first) * self.scale, second)


class LoraColumn(ColumnLinear):
    """A `ColumnLinear` of parts q, k, v, fc_in whose weight is frozen, with adapters; shapes as there."""

    def __init__(
        self,
        in_features: int,
        parts: tuple[int, ...],
        tp: TensorParallelGroup,
        products: Products | None = None,
        *,
        finetune: FinetuneConfig,
    ) -> None:
        super().__init__(in_features, parts, tp, products)
        self.outputs = {"qkv_proj": parts[:3], "fc_in": parts[3:]}
        self.quantized: QuantizedMatrix | None = None
        self.adapters = nn.ModuleDict()
        for name, own in self.outputs.items():
            if name in finetune.targets:
                self.adapters[name] = Adapter(in_features, sum(own), finetune, tp, Shard(0, own))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Shapes as in the class. There is no weight gradient that the backward collective could run beside."""
        whole = enter_column(hidden_states, self.tp)  # [batch, seq, in]
        product = _frozen_product(self, whole)
        lengths = [sum(own) // self.tp.size for own in self.outputs.values()]
        pieces = zip(self.outputs, torch.split(product, lengths, dim=-1), strict=True)
        return torch.cat([_with_adapter(self.adapters, name, piece, whole) for name, piece in pieces], dim=-1)


class LoraRow(RowLinear):
    """A `RowLinear` of parts attention, gelu(mlp) whose weight is frozen, with adapters; shapes as there.

    A rank's adapters give parts of the sum, and go into its collective.
    """

    def __init__(
        self,
        parts: tuple[int, ...],
        out_features: int,
        tp: TensorParallelGroup,
        products: Products | None = None,
        *,
        finetune: FinetuneConfig,
    ) -> None:
        super().__init__(parts, out_features, tp, products)
        self.inputs = dict(zip(("out_proj", "fc_out"), parts, strict=True))
        self.quantized: QuantizedMatrix | None = None
        self.adapters = nn.ModuleDict()
        for name, part in self.inputs.items():
            if name in finetune.targets:
                self.adapters[name] = Adapter(part, out_features, finetune, tp, Shard(1, (part,)))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as in the class."""
        partial_sum = _frozen_product(self, x)
        pieces = torch.split(x, [part // self.tp.size for part in self.inputs.values()], dim=-1)
        for name, piece in zip(self.inputs, pieces, strict=True):
            partial_sum = _with_adapter(self.adapters, name, partial_sum, piece)
        return leave_row(partial_sum, self.tp) + replicated(self.bias, self.tp)


def _frozen_product(layer: LoraColumn | LoraRow, x: Tensor) -> Tensor:
    if layer.quantized is not None:
        return layer.quantized(x)  # type: ignore[no-any-return]
    return linear(x, layer.weight, products=layer.products)


def _with_adapter(adapters: nn.ModuleDict, name: str, product: Tensor, x: Tensor) -> Tensor:
    """`product`, and what the adapter `name` makes of x, where there is one."""
    return product + adapters[name](x) if name in adapters else product


def delta(layer: dict[str, Tensor], product: str, shape: Sequence[int], finetune: FinetuneConfig) -> Tensor | None:
    """What a block's adapters add to the whole weight of `product`, in_proj or out_proj, of this `shape`, in fp32.

    layer: the whole adapters by name. None where it has none.
    """
    cut = {"in_proj": 0, "out_proj": 1}[product]  # the dimension in which the product's modules lie side by side
    d = shape[1] if cut == 0 else shape[0]
    lengths = {"in_proj": {"qkv_proj": 3 * d, "fc_in": 4 * d}, "out_proj": {"out_proj": d, "fc_out": 4 * d}}[product]
    total, start, found = torch.zeros(*shape), 0, False
    for module, length in lengths.items():
        first, second = (layer.get(f"{product}.{PREFIX}{module}.lora_{which}") for which in "AB")
        if first is not None and second is not None:
            into = total.narrow(cut, start, length)
            into.copy_(second.float() @ first.float()).mul_(finetune.alpha / finetune.rank)
            found = True
        start += length
    return total if found else None
