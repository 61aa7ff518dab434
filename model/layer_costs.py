"""The cost of each layer, for pipeline stages of equal cost."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from conf.choices import Balance
from conf.schema import Settings
from model.build import ALONE, run_layers
from model.flops import layer_flops, layer_parameters
from model.init import init_layer
from model.kernels import Kernels
from parallel.mesh import ProcessMesh

ROUNDS = 4  # timed passes of a layer


def layer_costs(
    settings: Settings, mesh: ProcessMesh, kernels: Kernels, dtype: torch.dtype, log: Callable[[str], None]
) -> list[float]:
    """The cost of each layer of `model.build`, in layout.balance's unit, the same on every process.

    flops: of the forward pass; parameters: their number; time: seconds, measured by the main process in `dtype`.
    """
    balance, n_layer = settings.layout.balance, settings.model.n_layer
    if mesh.pp_size > 1 and balance is Balance.time:
        measured = measured_seconds(settings, mesh.device, kernels, dtype) if mesh.is_main else None
        seconds: dict[str, float] = mesh.broadcast_object(measured)
        each = ", ".join(f"{name} {value:.2g}" for name, value in seconds.items())
        log(f"seconds of a layer, forward and backward: {each}")
        return [seconds["embedding"], *[seconds["block"]] * n_layer, seconds["head"]]
    costs = layer_parameters if balance is Balance.parameters else layer_flops
    return [float(cost) for cost in costs(settings.model)]


def measured_seconds(
    settings: Settings, device: torch.device, kernels: Kernels, dtype: torch.dtype, rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds of one micro-batch, forward and backward, through an embedding, a block and the head, not sharded.

    The fastest of `rounds` passes counts.
    """
    one_block = replace(settings, model=replace(settings.model, n_layer=1))
    layers = [build() for build in run_layers(one_block, ALONE, replace(kernels, compile=False))]
    for index, layer in enumerate(layers):
        init_layer(layer, index, one_block.model, ALONE, settings.run.seed)
        layer.to(device, dtype).train()
    shape = (settings.layout.micro_batch_size, settings.model.context_length)
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    embedding, block, head = layers
    hidden_states = embedding(ids).detach().requires_grad_()
    return {
        "embedding": _seconds(rounds, embedding, ids, device=device),
        "block": _seconds(rounds, block, hidden_states, device=device),
        "head": _seconds(rounds, head, hidden_states, ids, device=device),
    }


def _seconds(rounds: int, layer: nn.Module, *inputs: torch.Tensor, device: torch.device) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        summed = layer(*inputs).sum()
        if summed.requires_grad:  # a frozen embedding has no backward pass
            summed.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
