"""Initial weights, the same for every layout: each parameter is drawn whole from its own generator, then sliced.

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


def initialise(layer: nn.Module, layer_index: int, model: ModelConfig, tp: TensorParallelGroup, seed: int) -> None:
    """Set every parameter of `layer`, the `layer_index`-th of `model.codegen.layers`, in place. Meta tensors stay."""
    for name, parameter in layer.named_parameters():
        if not parameter.is_meta:
            full = draw(f"{layer_index}.{name}", _full_shape(parameter, tp), model, seed)
            shard = shard_of(parameter)
            with torch.no_grad():
                parameter.copy_(full if shard is None else shard.slice(full, tp.rank, tp.size))


def draw(name: str, shape: tuple[int, ...], model: ModelConfig, seed: int) -> Tensor:
    """The initial value of the whole parameter `name` ("3.in_proj.weight"), fp32 on the CPU."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("out_proj.weight"):
        deviation = (2.0 / model.n_layer) / model.n_embd**0.5
    elif name.endswith("tokens.weight"):
        deviation = model.vocab_size**-0.5
    else:
        deviation = model.n_embd**-0.5
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
    value = torch.empty(shape)
    return nn.init.trunc_normal_(value, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)


def _full_shape(parameter: Tensor, tp: TensorParallelGroup) -> tuple[int, ...]:
    shard, shape = shard_of(parameter), list(parameter.shape)
    if shard is not None:
        shape[shard.dim] = sum(shard.parts)
    return tuple(shape)
