"""Initial weights, the same for every layout and device: each is a function of the seed, its parameter and its place.

A process computes the rows and columns that it holds, on the device that holds them. Source of the distributions:
JAXFORMER's modules. Linear layers: normal truncated at two standard deviations, std 1/sqrt(fan_in); the two products
back into the residual stream: std (2/n_layer)/sqrt(n_embd); embedding: std 1/sqrt(vocab_size); norms 1 and 0, biases 0.
Adapters as PEFT's: the first matrix uniform within 1/sqrt(fan_in), the second 0.
"""

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn

from conf.schema import ModelConfig
from parallel.hashing import BITS, hash_grid, keys_of
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import shard_of

CELL_BITS = 15  # the inverse of the normal's distribution is linear in each of 2^15 cells: its error is below 1e-8
CHUNK = {"cpu": 2**16}  # weights that are computed at one time, by kind of device: on a CPU, as its cache holds
LARGE_CHUNK = 2**22  # on others, whose temporary tensors are then 32 MiB each


def init_layer(layer: nn.Module, layer_index: int, config: ModelConfig, tp: TensorParallelGroup, seed: int) -> None:
    """Set every parameter of `layer`, layer `layer_index` of `model.build`, in place. Meta tensors are left alone."""
    for name, parameter in layer.named_parameters():
        if not parameter.is_meta:
            device, shard = parameter.device, shard_of(parameter)
            places = [torch.arange(length, device=device) for length in parameter.shape]
            if shard is not None:
                whole = torch.arange(sum(shard.parts), device=device)
                places[shard.dim] = replace(shard, dim=0).slice(whole, tp.rank, tp.size)
            with torch.no_grad():
                _fill(parameter, places, f"{layer_index}.{name}", config, seed)


def init_parameter(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """The initial value of the whole parameter `name` ("3.in_proj.weight"), fp32 on the CPU."""
    whole = torch.empty(shape)
    _fill(whole, [torch.arange(length) for length in shape], name, config, seed)
    return whole


def _fill(values: Tensor, places: list[Tensor], name: str, config: ModelConfig, seed: int) -> None:
    """Set `values` to the parameter's at `places`: indices along each of its dimensions."""
    if name.endswith("lora_A"):  # uniform, as PEFT's
        rows, columns = places
        bound = (config.n_embd * (4 if ".fc_out." in name else 1)) ** -0.5
        fractions = hash_grid(rows, columns, keys_of(seed, name)).double().mul_(2.0**-BITS)
        values.copy_(fractions.mul_(2).sub_(1).mul_(bound))
    elif name.endswith("lora_B"):
        values.zero_()
    elif name.endswith("norm.weight"):
        values.fill_(1)
    elif name.endswith("bias"):
        values.zero_()
    else:
        rows, columns = places
        keys, std = keys_of(seed, name), _standard_deviation(name, config)
        count = max(1, CHUNK.get(values.device.type, LARGE_CHUNK) // len(columns))
        for part, indices in zip(torch.split(values, count), torch.split(rows, count), strict=True):
            part.copy_(_truncated_normal(hash_grid(indices, columns, keys)).mul_(std))


def _standard_deviation(name: str, config: ModelConfig) -> float:
    if name.endswith("out_proj.weight"):
        return float((2.0 / config.n_layer) / config.n_embd**0.5)
    if name.endswith("tokens.weight"):
        return float(config.vocab_size**-0.5)
    return float(config.n_embd**-0.5)


def _truncated_normal(bits: Tensor) -> Tensor:
    """Hashes, int64 -> a standard normal cut at -2 and 2, fp32 of the same shape.

    By table and separate products and sums, which every device rounds alike.
    """
    edges, steps = _inverse(bits.device)
    cell = bits >> (BITS - CELL_BITS)
    within = (bits & ((1 << (BITS - CELL_BITS)) - 1)).float().mul_(2.0 ** (CELL_BITS - BITS))
    return within.mul_(steps[cell]).add_(edges[cell])


@functools.cache
def _inverse(device: torch.device) -> tuple[Tensor, Tensor]:
    """The inverse of the cut normal's distribution function at each cell's lower edge, and its growth over the cell."""
    bound = torch.erf(torch.tensor(2.0, dtype=torch.float64) / 2**0.5)
    quantiles = torch.linspace(-1, 1, 2**CELL_BITS + 1, dtype=torch.float64) * bound
    values = (torch.erfinv(quantiles) * 2**0.5).float()
    return values[:-1].to(device), values.diff().to(device)
