"""Adapters as a stage of a run leaves them: at first, beside the weights that they adapt, and merged into them."""

from dataclasses import replace

import torch
import xxhash
from torch import Tensor

from conf.schema import FinetuneConfig, ModelConfig
from model.build import ALONE, layer_shapes
from model.init import init_parameter
from model.lora import delta
from model.weights import NO_SHARDS, Adapters, Layer, ReadLayer, Shards, Weights, memory_reader
from parallel.mesh import TensorParallelGroup


def initial_adapters(model: ModelConfig, finetune: FinetuneConfig, seed: int) -> ReadLayer:
    """A reader of adapters that nothing has trained: they add nothing to the weights."""
    shapes = layer_shapes(model, finetune)

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        layer = {name: init_parameter(f"{index}.{name}", shape, model, seed) for name, shape in shapes[index].items()}
        return memory_reader([layer])(0, shards, tp)

    return read


def beside(base: Weights, adapters: ReadLayer) -> Weights:
    """The weights `base`, and the adapters beside them, as a layer that trains them has them."""

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        layer = base.layer(index, shards, tp)
        return layer | adapters(index, shards, tp) if _has_adapters(index, base) else layer

    return replace(base, read=read)


def merge(adapters: Adapters, base: Weights) -> ReadLayer:
    """A reader of `base` with what the adapters add to it: summed in fp32, in the type that `base` is stored in."""

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        layer = dict(base.layer(index, shards, tp))
        if not _has_adapters(index, base):
            return layer
        found, d = adapters.read(index), base.model.n_embd
        for product, shape in (("in_proj", (7 * d, d)), ("out_proj", (d, 5 * d))):
            added = delta(found, product, shape, adapters.finetune)
            name = f"{product}.weight"
            if added is not None:
                shard = shards.get(name)
                own = added if shard is None else shard.slice(added, tp.rank, tp.size)
                layer[name] = _sum(layer[name], own)
        return layer

    return read


def fingerprint(weights: Weights) -> str:
    """A hash of every layer, by which adapters know what they adapt; a stage of adapters is read as it is merged."""
    digest = xxhash.xxh3_128()
    for index in range(weights.model.n_layer + 2):
        layer = weights.layer(index)
        for name in sorted(layer):
            digest.update(layer[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _has_adapters(index: int, base: Weights) -> bool:
    """Only blocks have adapters; there is no file for other layers."""
    return 0 < index <= base.model.n_layer


def _sum(weight: Tensor, added: Tensor) -> Tensor:
    return added.add_(weight.float()).to(weight.dtype)
