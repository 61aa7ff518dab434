"""A layout worked out on paper: every pipeline stage is built and runs one micro-batch, on meta tensors."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import log2
from typing import Any

import torch
from torch import nn

from conf.check import check, data_parallel_size, gradient_accumulation_steps
from conf.choices import Balance, Precision, Recompute
from conf.errors import ConfigError
from conf.schema import Settings
from model.build import run_layers
from model.dtypes import DTYPES
from model.flops import layer_flops, layer_parameters
from model.kernels import select_kernels
from parallel.memory import MicroBatchRun, States, run_micro_batch, states
from parallel.pipeline import pipeline_bounds
from parallel.simulate import pipeline_stage_rank, simulated_mesh
from parallel.zero import deepspeed_config
from train.optimizer import decays

GPUS_A_NODE = 8
CONTEXT_BYTES = 2 * 2**30  # kept free on each GPU: CUDA's context, NCCL's and cuBLAS's buffers
FRAGMENTATION = 0.05  # kept free on each GPU, of its memory: blocks that the allocator cannot use


@dataclass(frozen=True)
class PipelineStagePlan:
    """One pipeline stage's process (tensor rank 0 of data rank 0). Bytes on its GPU.

    collectives: kind -> (calls, bytes) in one optimizer step; 0 calls: as many as DeepSpeed's buckets make.
    """

    first_layer: int
    end_layer: int
    parameters: int
    states: States
    micro_batch: MicroBatchRun
    in_flight: int
    collectives: dict[str, tuple[int, int]]

    @property
    def activations(self) -> int:
        """Kept for the backward passes of the micro-batches in flight."""
        return self.in_flight * self.micro_batch.saved

    @property
    def working(self) -> int:
        """Beyond that: what the micro-batch under way makes and drops again, and DeepSpeed's buffers beside it."""
        return self.micro_batch.peak - self.micro_batch.saved + self.states.passes

    @property
    def total(self) -> int:
        """The most at one time: at the start, during the passes, or in the optimizer step."""
        return max(self.states.start, self.states.kept + max(self.activations + self.working, self.states.step))


def world_size(settings: Settings) -> int:
    """Processes that the settings stand for, as `launch` counts them; 8 a node where nothing says."""
    cluster, layout = settings.cluster, settings.layout
    needed = layout.tensor_parallel_size * layout.pipeline_parallel_size * (layout.data_parallel_size or 0)
    return cluster.nodes * (cluster.processes_per_node or needed // cluster.nodes or GPUS_A_NODE)


def on_gpu(settings: Settings) -> Settings:
    """`settings` with the precision that `auto` stands for on the GPUs that are planned for: bf16."""
    layout = settings.layout
    precision = Precision.bf16 if layout.precision is Precision.auto else layout.precision
    return replace(settings, layout=replace(layout, precision=precision))


def bounds(settings: Settings) -> list[int]:
    """Where the layers are cut into pipeline stages. `layout.balance=time` is cut by flops: there is no GPU to time."""
    layout = settings.layout
    costs = (layer_parameters if layout.balance is Balance.parameters else layer_flops)(settings.model)
    return pipeline_bounds([float(cost) for cost in costs], layout.pipeline_parallel_size)


def build_stage(settings: Settings, stage: int, mesh: Any) -> list[nn.Module]:
    """The layers of a stage as this process holds them, in the run's precision, on the meta device."""
    kernels = replace(select_kernels(settings.kernels), compile=False)  # compiling takes minutes and moves no tensor
    builders = run_layers(settings, mesh.tp, kernels)
    first, end = bounds(settings)[stage : stage + 2]
    with torch.device("meta"):
        return [builder().to(DTYPES[settings.layout.precision]) for builder in builders[first:end]]


def plan_stage(settings: Settings, stage: int, size: int, measure: bool = True) -> PipelineStagePlan:
    """The stage's process among `size`. measure=False leaves the micro-batch out: weights and optimizer state only."""
    layout, model = settings.layout, settings.model
    stages, last = layout.pipeline_parallel_size, stage == layout.pipeline_parallel_size - 1
    batch = next(iter(settings.stages.values())).global_batch_size
    config = deepspeed_config(settings, batch, size, layout.precision)
    count = gradient_accumulation_steps(settings, batch, size)
    shape = (layout.tensor_parallel_size, stages, layout.sequence_parallel, layout.tensor_parallel_overlap)
    first, end = bounds(settings)[stage : stage + 2]
    with simulated_mesh(pipeline_stage_rank(stage, size, stages), size, *shape) as mesh:
        modules = build_stage(settings, stage, mesh)
        tokens = model.context_length // (mesh.tp.size if mesh.tp.sequence_parallel else 1)
        hidden = (layout.micro_batch_size, tokens, model.n_embd)
        run = MicroBatchRun(0, 0, 0, 0, [])
        if measure:
            run = run_micro_batch(modules, stage == 0, last, hidden, model.context_length)
    named = [(f"{first + i}.{name}", p) for i, layer in enumerate(modules) for name, p in layer.named_parameters()]
    buffers = sum(b.numel() * b.element_size() for layer in modules for b in layer.buffers())
    decayed = [decays(name, p, settings.optimizer.decay, model.n_layer) for name, p in named]
    kept = states([p for _, p in named], decayed, buffers, settings, config, data_parallel_size(settings, size))
    if stages > 1:  # the pipeline engine keeps one buffer to receive hidden states and one for their gradients
        kept = replace(kept, passes=kept.passes + run.boundary * ((stage > 0) + (not last)))
    total, calls = Counter[str](), Counter[str]()
    for collective in run.collectives:
        total[f"tensor {collective.kind}"] += collective.bytes * count
        calls[f"tensor {collective.kind}"] += count
    sends = (not last) + (stage > 0)
    if sends:
        calls["pipeline send"], total["pipeline send"] = sends * count, sends * count * run.boundary
    reduce = "data reduce-scatter" if layout.zero_stage == 3 else "data all-reduce"
    for kind, size_bytes in ((reduce, kept.reduced), ("data all-gather", kept.gathered)):
        if size_bytes:
            total[kind] = size_bytes
    return PipelineStagePlan(
        first,
        end,
        sum(p.numel() for _, p in named),
        kept,
        run,
        min(stages - stage, count),
        {kind: (calls[kind], total[kind]) for kind in total},
    )


def plan(settings: Settings, size: int, measure: bool = True) -> list[PipelineStagePlan]:
    """Every pipeline stage of a layout on `size` processes."""
    return [plan_stage(settings, stage, size, measure) for stage in range(settings.layout.pipeline_parallel_size)]


def usable_bytes(device_memory_gib: float) -> int:
    """What a job may fill of a GPU's memory."""
    return int(device_memory_gib * 2**30 * (1 - FRAGMENTATION)) - CONTEXT_BYTES


def nearest_layout(settings: Settings, size: int, usable: int, tries: int = 40) -> dict[str, Any] | None:
    """The settings to change so that the job fits `usable` bytes on as many GPUs: fewest keys, then smallest steps.

    None where none of the `tries` nearest that could fit does.
    """
    for _, keys in sorted(_changes(settings, size), key=lambda change: change[0]):
        layout = replace(settings.layout, **keys)
        other = replace(settings, layout=layout)
        if max(stage.total for stage in plan(other, size, measure=False)) > usable:
            continue
        tries -= 1
        if max(stage.total for stage in plan(other, size)) <= usable:
            return keys
        if not tries:
            return None
    return None


def _changes(settings: Settings, size: int) -> Iterator[tuple[tuple[int, float], dict[str, Any]]]:
    layout = settings.layout
    powers, order = [2**n for n in range(5)], list(Recompute)
    micro = [n for n in powers if n <= layout.micro_batch_size] or [1]
    for tensor, pipeline, zero, recompute, batch in product(powers[:4], powers, (1, 2, 3), order, micro):
        wanted = {
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
            "zero_stage": zero,
            "recompute": recompute,
            "micro_batch_size": batch,
        }
        keys: dict[str, Any] = {key: value for key, value in wanted.items() if getattr(layout, key) != value}
        if not keys:
            continue
        distance = sum(
            abs(log2(wanted[key] / getattr(layout, key)))  # type: ignore[operator]
            for key in ("tensor_parallel_size", "pipeline_parallel_size", "micro_batch_size")
        )
        distance += abs(zero - layout.zero_stage) + abs(order.index(recompute) - order.index(layout.recompute))
        rank = (len(keys), distance)
        if layout.data_parallel_size is not None and size % (tensor * pipeline) == 0:
            replicas = size // (tensor * pipeline)
            if replicas != layout.data_parallel_size:
                keys["data_parallel_size"] = replicas
        try:
            check(replace(settings, layout=replace(layout, **keys)), size)
        except ConfigError:
            continue
        yield rank, keys
