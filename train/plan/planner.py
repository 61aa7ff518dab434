"""Plan of a layout: each pipeline stage is built and runs one micro-batch on meta tensors, on a simulated mesh."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import log2
from typing import Any

import torch
from torch import nn

from conf.check import check, data_parallel_size, gradient_accumulation_steps
from conf.choices import ApexForm, Balance, NormForm, Precision, Recompute
from conf.errors import ConfigError
from conf.lora import trained_layers
from conf.processes import processes_per_node
from conf.schema import Settings
from model.build import run_layers
from model.dtypes import DTYPES
from model.flops import layer_flops, layer_parameters
from model.kernels import select_kernels
from model.kernels.fp8 import kept_bytes
from model.lora import quantize_frozen
from model.quantized import elements
from parallel.memory import MicroBatchRun, States, run_micro_batch, states
from parallel.pipeline import pipeline_bounds
from parallel.simulate import pipeline_stage_rank, simulated_mesh
from parallel.zero import deepspeed_config
from train.optimizer import decays
from train.plan import GPUS_A_NODE
from train.plan.shapes import shapes

CONTEXT_BYTES = 2 * 2**30  # kept free on each GPU: CUDA's context, NCCL's and cuBLAS's buffers
FRAGMENTATION = 0.05  # kept free on each GPU, of its memory: blocks that the allocator cannot use


@dataclass(frozen=True)
class PipelineStagePlan:
    """Memory and traffic of one pipeline stage's process (tensor rank 0 of data rank 0), in bytes on its GPU.

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
        """Saved for the backward passes of the micro-batches in flight."""
        return self.in_flight * self.micro_batch.saved_activations

    @property
    def working(self) -> int:
        """Temporary tensors of the running micro-batch, and DeepSpeed's communication buffers."""
        return self.micro_batch.peak - self.micro_batch.saved_activations + self.states.forward_backward_buffers

    @property
    def total(self) -> int:
        """Peak: of initialization, of forward and backward, or of the optimizer step."""
        states = self.states
        running = max(self.activations + self.working, states.optimizer_step_buffers)
        return max(states.initialization, states.persistent + running)


def world_size(settings: Settings) -> int:
    """Number of processes of the run, as `launch` counts them; 8 a node where the settings do not say."""
    return settings.cluster.nodes * (processes_per_node(settings.cluster, settings.layout) or GPUS_A_NODE)


def on_gpu(settings: Settings) -> Settings:
    """`settings` with `layout.precision=auto` resolved to bf16, its value on the GPUs that are planned for."""
    layout = settings.layout
    precision = Precision.bf16 if layout.precision is Precision.auto else layout.precision
    return replace(settings, layout=replace(layout, precision=precision))


def bounds_of(settings: Settings) -> list[int]:
    """Bounds of the pipeline stages (`pipeline_bounds`). `layout.balance=time` uses FLOPs: there is no GPU to time."""
    layout = settings.layout
    cost_of = layer_parameters if layout.balance is Balance.parameters else layer_flops
    costs = [float(cost) for cost in cost_of(settings.model)]
    return pipeline_bounds(costs, layout.pipeline_parallel_size, trained_layers(settings))


def build_pipeline_stage(settings: Settings, pipeline_stage: int, mesh: Any) -> list[nn.Module]:
    """This process's part of a pipeline stage's layers, in the run's precision, as on a GPU, on the meta device."""
    forms = settings.kernels
    if forms.norm is NormForm.apex:  # which keeps what Triton's keeps, and need not be here
        forms = replace(forms, norm=NormForm.auto)
    # apex's need not be here either, and compiling takes minutes
    forms = replace(forms, weight_gradient=ApexForm.torch, optimizer=ApexForm.torch, compile=False)
    kernels = select_kernels(forms, torch.device("cuda"))
    builders = run_layers(settings, mesh.tp, kernels)
    first, end = bounds_of(settings)[pipeline_stage : pipeline_stage + 2]
    with torch.device("meta"):
        built = [quantize_frozen(builder(), settings.finetune) for builder in builders[first:end]]
        return [layer.to(DTYPES[settings.layout.precision]) for layer in built]


def plan_pipeline_stage(settings: Settings, pipeline_stage: int, size: int, measure: bool = True) -> PipelineStagePlan:
    """Plan one pipeline stage of `size` processes.

    measure=False leaves the micro-batch out: weights and optimizer state only.
    """
    layout, model = settings.layout, settings.model
    pp_size = layout.pipeline_parallel_size
    first_stage, last_stage = pipeline_stage == 0, pipeline_stage == pp_size - 1
    batch = next(iter(settings.stages.values())).global_batch_size
    config = deepspeed_config(settings, batch, size, layout.precision)
    count = gradient_accumulation_steps(settings, batch, size)
    flags = (layout.sequence_parallel, layout.tensor_parallel_overlap, layout.regather_sequence)
    first, end = bounds_of(settings)[pipeline_stage : pipeline_stage + 2]
    with simulated_mesh(
        pipeline_stage_rank(pipeline_stage, size, pp_size), size, layout.tensor_parallel_size, pp_size, *flags
    ) as mesh:
        modules = build_pipeline_stage(settings, pipeline_stage, mesh)
        tokens = model.context_length // (mesh.tp.size if mesh.tp.sequence_parallel else 1)
        hidden = (layout.micro_batch_size, tokens, model.n_embd)
        run = MicroBatchRun(0, 0, 0, 0, [])
        if measure:
            run = run_micro_batch(modules, first_stage, last_stage, hidden, model.context_length)
    named = [(f"{first + i}.{name}", p) for i, layer in enumerate(modules) for name, p in layer.named_parameters()]
    sizes = [elements(layer) for layer in modules]
    buffers = sum(b.numel() * b.element_size() for layer in modules for b in layer.buffers())
    buffers += sum(map(kept_bytes, modules))
    decayed = [decays(name, p, settings.optimizer.decay, model.n_layer) for name, p in named]
    held = states(
        [p for _, p in named], decayed, buffers, settings, config, data_parallel_size(settings, size), max(sizes)
    )
    if pp_size > 1:  # the pipeline engine keeps one buffer to receive hidden states and one for their gradients
        buffers = held.forward_backward_buffers + run.boundary * ((not first_stage) + (not last_stage))
        held = replace(held, forward_backward_buffers=buffers)
    total, calls = Counter[str](), Counter[str]()
    for collective in run.collectives:
        total[f"tensor {collective.kind}"] += collective.bytes * count
        calls[f"tensor {collective.kind}"] += count
    sends = (not first_stage) + (not last_stage)
    if sends:
        calls["pipeline send"], total["pipeline send"] = sends * count, sends * count * run.boundary
    scattered = layout.zero_stage == 3 or held.optimizer_class == "BF16_Optimizer"
    reduce = "data reduce-scatter" if scattered else "data all-reduce"
    moved = {reduce: held.reduced, "data all-gather": held.gathered, "node all-gather": held.gathered_in_node}
    for kind, size_bytes in moved.items():
        if size_bytes:
            total[kind] = size_bytes
    return PipelineStagePlan(
        first,
        end,
        sum(sizes),
        held,
        run,
        min(pp_size - pipeline_stage, count),
        {kind: (calls[kind], total[kind]) for kind in total},
    )


def plan(settings: Settings, size: int, measure: bool = True) -> list[PipelineStagePlan]:
    """Every pipeline stage of a layout on `size` processes."""
    pp_size = settings.layout.pipeline_parallel_size
    return [plan_pipeline_stage(settings, pipeline_stage, size, measure) for pipeline_stage in range(pp_size)]


def usable_bytes(device_memory_gib: float) -> int:
    """Bytes of a GPU's memory that a run may allocate."""
    return int(device_memory_gib * 2**30 * (1 - FRAGMENTATION)) - CONTEXT_BYTES


def nearest_layout(settings: Settings, size: int, usable: int, tries: int = 40) -> dict[str, Any] | None:
    """Settings under `layout` to change so that the run fits `usable` bytes on as many GPUs: fewest, then closest.

    Returns key -> value, or None where none of the `tries` nearest candidates fits.
    """
    for _, keys in sorted(_changes(settings, size), key=lambda change: change[0]):
        layout = replace(settings.layout, **keys)
        other = replace(settings, layout=layout)
        if max(each.total for each in plan(other, size, measure=False)) > usable:
            continue
        tries -= 1
        if max(each.total for each in plan(other, size)) <= usable:
            return keys
        if not tries:
            return None
    return None


def _changes(settings: Settings, size: int) -> Iterator[tuple[tuple[int, float], dict[str, Any]]]:
    layout, order = settings.layout, list(Recompute)
    smaller = [shape for shape in shapes(settings, size) if shape[2] <= layout.micro_batch_size]
    for (tensor, pipeline, micro), zero, recompute in product(smaller, (1, 2, 3), order):
        wanted = {
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
            "zero_stage": zero,
            "recompute": recompute,
            "micro_batch_size": micro,
        }
        keys: dict[str, Any] = {key: value for key, value in wanted.items() if getattr(layout, key) != value}
        if not keys:
            continue
        distance = sum(
            abs(log2(wanted[key] / getattr(layout, key)))
            for key in ("tensor_parallel_size", "pipeline_parallel_size", "micro_batch_size")
        )
        distance += abs(zero - layout.zero_stage) + abs(order.index(recompute) - order.index(layout.recompute))
        rank = (len(keys), distance)
        if layout.data_parallel_size not in (None, size // (tensor * pipeline)):
            keys["data_parallel_size"] = size // (tensor * pipeline)
        try:
            check(replace(settings, layout=replace(layout, **keys)), size)
        except ConfigError:
            continue
        yield rank, keys
