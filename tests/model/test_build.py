"""One list of builders is the model, for every command."""

from dataclasses import replace

import torch

from conf.choices import Recompute
from conf.schema import ModelConfig, Settings
from model.build import build_layers, layer_shapes, run_layers
from model.codegen import Block, Embedding, Head
from model.kernels import select_kernels
from parallel.mesh import TensorParallelGroup


def test_the_layers_are_an_embedding_the_blocks_and_a_head(tiny: ModelConfig) -> None:
    kinds = [type(build()) for build in build_layers(replace(tiny, n_layer=3))]
    assert kinds == [Embedding, Block, Block, Block, Head]


def test_a_runs_layers_follow_its_settings(settings: Settings) -> None:
    layout = replace(settings.layout, recompute=Recompute.full, loss_chunk_tokens=13)
    changed = replace(settings, layout=layout, optimizer=replace(settings.optimizer, z_loss=0.5))
    kernels, tp = select_kernels(settings.kernels), TensorParallelGroup(size=2, rank=1)
    _, block, *_, head = (build() for build in run_layers(changed, tp, kernels))
    assert block.kernels is kernels and block.heads == settings.model.n_head // 2
    assert (head.options.z_loss, head.options.chunk_tokens, head.options.tp) == (0.5, 13, tp)
    x = torch.randn(1, 4, settings.model.n_embd, requires_grad=True)
    kept = {recompute: saved_values(replace(changed, layout=replace(layout, recompute=recompute)), x)
            for recompute in Recompute}  # fmt: skip
    assert kept[Recompute.full] < kept[Recompute.selective] < kept[Recompute.none]


def saved_values(settings: Settings, x: torch.Tensor) -> int:
    """Values that a block keeps for its backward pass."""
    block, sizes = run_layers(settings, TensorParallelGroup(), select_kernels(settings.kernels))[1](), []
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)

    def pack(value: torch.Tensor) -> torch.Tensor:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        block(x)
    return sum(sizes)


def test_shapes_are_those_of_the_built_layers(tiny: ModelConfig) -> None:
    built = [build() for build in build_layers(tiny)]
    shapes = [{name: tuple(p.shape) for name, p in layer.named_parameters()} for layer in built]
    assert layer_shapes(tiny) == shapes
