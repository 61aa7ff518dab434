"""The model as a list of layer builders: embedding, `n_layer` blocks, head. Every command builds its layers here."""

from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import nn

from conf.choices import Offload, Precision, Recompute
from conf.lora import is_lora
from conf.schema import FinetuneConfig, ModelConfig, Settings
from model.codegen import Block, Embedding, Head
from model.kernels import REFERENCE, Kernels
from model.kernels.fp8 import FP8, KEPT
from model.lora import adapted, freeze_weights
from parallel.cross_entropy import LossOptions
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import TORCH

LOSS_CHUNK_TOKENS = 256  # where there are no settings of a run: tokens whose logits exist at one time
FULL = FinetuneConfig()  # every weight is trained
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
    frozen = is_lora(settings.finetune)  # without weight gradients
    if not frozen and layout.zero_stage == 1 and layout.precision in (Precision.bf16, Precision.fp8) and not compiled:
        by_torch = TORCH._replace(add_of_weight=kernels.add_of_weight or TORCH.add_of_weight, accumulates=True)
        kept = layout.keep_fp8_weights and layout.offload is Offload.none  # offloading leaves no sums on the GPU
        by_fp8 = KEPT if kept else FP8._replace(accumulates=True)
        kernels = replace(kernels, products=by_torch if kernels.products is None else by_fp8)
    chunk = layout.loss_chunk_tokens
    return build_layers(settings.model, tp, kernels, layout.recompute, z_loss, chunk, settings.finetune)


def build_layers(
    config: ModelConfig,
    tp: TensorParallelGroup = ALONE,
    kernels: Kernels = REFERENCE,
    recompute: Recompute = Recompute.none,
    z_loss: float = 0.0,
    loss_chunk_tokens: int = LOSS_CHUNK_TOKENS,
    finetune: FinetuneConfig = FULL,
) -> list[Builder]:
    """A builder a layer, in order: a pipeline stage calls only its own. Weights are not yet set (see `model.init`).

    Layer i's parameters are named "i.name" in checkpoints, whatever the layout.
    """
    loss = LossOptions(z_loss, loss_chunk_tokens, tp, kernels.compile)
    embedding = cast(Builder, partial(Embedding, config, tp))
    blocks = [cast(Builder, partial(Block, config, tp, kernels, recompute, 1 + n)) for n in range(config.n_layer)]
    head = cast(Builder, partial(Head, config, tp, loss, kernels.norm))
    if is_lora(finetune):
        layers = [embedding, *(adapted(block, finetune) for block in blocks), head]
        return [partial(_build_frozen, layer) for layer in layers]
    return [embedding, *blocks, head]


def _build_frozen(layer: Builder) -> nn.Module:
    return freeze_weights(layer())


def layer_shapes(config: ModelConfig, finetune: FinetuneConfig = FULL) -> list[dict[str, tuple[int, ...]]]:
    """Shape of every whole parameter that is trained by name, layer by layer."""
    builders = build_layers(config, finetune=finetune)
    with torch.device("meta"):
        first, block, head = (
            {name: tuple(p.shape) for name, p in builders[index]().named_parameters() if p.requires_grad}
            for index in (0, 1, -1)
        )
    return [first, *[block] * config.n_layer, head]
