"""The model as a list of layer builders: embedding, `n_layer` blocks, head. Every command builds its layers here."""

from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import nn

from conf.choices import Precision, Recompute
from conf.schema import ModelConfig, Settings
from model.codegen import Block, Embedding, Head
from model.kernels import REFERENCE, Kernels
from model.kernels.fp8 import FP8
from parallel.cross_entropy import LossOptions
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import TORCH

LOSS_CHUNK_TOKENS = 256  # where there are no settings of a run: tokens whose logits exist at one time
ALONE = TensorParallelGroup()  # no tensor parallelism: one process holds each matrix whole

Builder = partial[nn.Module]


def run_layers(settings: Settings, tp: TensorParallelGroup, kernels: Kernels) -> list[Builder]:
    """The layers of a run, as its settings describe them; see `build_layers`."""
    layout, z_loss = settings.layout, settings.optimizer.z_loss
    if layout.precision is Precision.fp8:
        kernels = replace(kernels, products=FP8)
    if layout.zero_stage == 3:  # its hooks on the layers within a block would break the block into many graphs
        kernels = replace(kernels, compile_blocks=False)
    compiled = kernels.compile and kernels.compile_blocks and tp.size == 1
    if layout.zero_stage == 1 and layout.precision in (Precision.bf16, Precision.fp8) and not compiled:
        products = kernels.products or TORCH._replace(add_of_weight=kernels.add_of_weight or TORCH.add_of_weight)
        kernels = replace(kernels, products=products._replace(accumulates=True))
    return build_layers(settings.model, tp, kernels, layout.recompute, z_loss, layout.loss_chunk_tokens)


def build_layers(
    config: ModelConfig,
    tp: TensorParallelGroup = ALONE,
    kernels: Kernels = REFERENCE,
    recompute: Recompute = Recompute.none,
    z_loss: float = 0.0,
    loss_chunk_tokens: int = LOSS_CHUNK_TOKENS,
) -> list[Builder]:
    """A builder a layer, in order: a pipeline stage calls only its own. Weights are not yet set (see `model.init`).

    Layer i's parameters are named "i.name" in checkpoints, whatever the layout.
    """
    loss = LossOptions(z_loss, loss_chunk_tokens, tp, kernels.compile)
    embedding = cast(Builder, partial(Embedding, config, tp))
    blocks = [cast(Builder, partial(Block, config, tp, kernels, recompute, 1 + n)) for n in range(config.n_layer)]
    head = cast(Builder, partial(Head, config, tp, loss, kernels.norm))
    return [embedding, *blocks, head]


def layer_shapes(config: ModelConfig) -> list[dict[str, tuple[int, ...]]]:
    """Shape of every whole parameter by name, layer by layer."""
    builders = build_layers(config)
    with torch.device("meta"):
        first, block, head = (
            {name: tuple(value.shape) for name, value in builders[index]().named_parameters()} for index in (0, 1, -1)
        )
    return [first, *[block] * config.n_layer, head]
