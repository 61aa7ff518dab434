"""Initial weights, the same for every layout: each whole parameter has its own generator and is then sliced.

Source of the distributions: JAXFORMER's modules. Linear layers: normal truncated at two standard deviations, std
1/sqrt(fan_in); the two products back into the residual stream: std (2/n_layer)/sqrt(n_embd); embedding: std
1/sqrt(vocab_size); norms 1 and 0, biases 0.
"""

import hashlib

import torch
from torch import Tensor, nn

from conf.schema import ModelConfig
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import shard_of


def init_layer(layer: nn.Module, layer_index: int, config: ModelConfig, tp: TensorParallelGroup, seed: int) -> None:
    """Set every parameter of `layer`, layer `layer_index` of `model.build`, in place. Meta tensors are left alone."""
    for name, parameter in layer.named_parameters():
        if not parameter.is_meta:
            full = init_parameter(f"{layer_index}.{name}", _full_shape(parameter), config, seed)
            shard = shard_of(parameter)
            with torch.no_grad():
                parameter.copy_(full if shard is None else shard.slice(full, tp.rank, tp.size))


def init_parameter(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """The initial value of the whole parameter `name` ("3.in_proj.weight"), fp32 on the CPU."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("out_proj.weight"):
        std = (2.0 / config.n_layer) / config.n_embd**0.5
    elif name.endswith("tokens.weight"):
        std = config.vocab_size**-0.5
    else:
        std = config.n_embd**-0.5
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)


def _full_shape(parameter: Tensor) -> tuple[int, ...]:
    shard, shape = shard_of(parameter), list(parameter.shape)
    if shard is not None:
        shape[shard.dim] = sum(shard.parts)
    return tuple(shape)
