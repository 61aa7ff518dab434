"""What each layer weighs when a pipeline is cut into stages."""

import time
from dataclasses import replace

import torch
from torch import nn

from conf.choices import Balance
from model.codegen import layers
from model.dtypes import DTYPES
from model.flops import layer_flops, layer_parameters
from model.init import initialise
from parallel.cross_entropy import LossOptions
from parallel.mesh import TensorParallelGroup
from train.context import RunContext


def layer_costs(context: RunContext) -> list[float]:
    """A cost for each layer of `model.codegen.layers`, in layout.balance's unit, the same on every process.

    flops: of the forward pass; parameters: their number; time: measured by the main process.
    """
    if context.mesh.pp_size > 1 and context.settings.layout.balance is Balance.time:
        seconds = context.mesh.broadcast_object(measured_seconds(context) if context.mesh.is_main else None)
        measured = ", ".join(f"{name} {value:.2g}" for name, value in seconds.items())
        context.log(f"seconds of a layer, forward and backward: {measured}")
        return [seconds["embedding"], *[seconds["block"]] * context.settings.model.n_layer, seconds["head"]]
    costs = layer_parameters if context.settings.layout.balance is Balance.parameters else layer_flops
    return [float(cost) for cost in costs(context.settings.model)]


def measured_seconds(context: RunContext) -> dict[str, float]:
    """Seconds of one micro-batch through an embedding, a block and the head, forward and backward, whole matrices."""
    settings, device, alone = context.settings, context.mesh.device, TensorParallelGroup()
    model = replace(settings.model, n_layer=1)
    loss = LossOptions(settings.optimizer.z_loss, settings.layout.loss_chunk_tokens, alone)
    operations = replace(context.operations, compile=False)
    built = [builder() for builder in layers(model, alone, operations, settings.layout.recompute, loss)]
    for index, layer in enumerate(built):
        initialise(layer, index, model, alone, settings.run.seed)
        layer.to(device, DTYPES[context.precision]).train()
    shape = (settings.layout.micro_batch_size, model.context_length)
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    hidden_states = built[0](ids).detach().requires_grad_()
    embedding, block, head = built
    return {
        "embedding": _seconds(embedding, ids, device=device),
        "block": _seconds(block, hidden_states, device=device),
        "head": _seconds(head, hidden_states, ids, device=device),
    }


def _seconds(layer: nn.Module, *inputs: torch.Tensor, device: torch.device) -> float:
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        layer(*inputs).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
