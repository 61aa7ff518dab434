"""Memory of one GPU: weights and optimizer state as DeepSpeed allocates them, and one micro-batch, measured.

`states` follows DeepSpeed 0.19's source (runtime/engine.py `_do_optimizer_sanity_check` chooses among
bf16_optimizer.py, zero/stage_1_and_2.py and zero/stage3.py). `run_micro_batch` runs a pipeline stage's real
layers forward and backward on meta tensors and records every allocation and release.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conf.choices import Offload, Precision
from conf.schema import Settings
from parallel.simulate import Collective, collectives

ALLREDUCE_BUCKET = 500_000_000  # elements: MEMORY_OPT_ALLREDUCE_SIZE in deepspeed/runtime/engine.py
HALF, FULL, ADAM = 2, 4, 12  # bytes a parameter: bf16 or fp16; fp32; fp32 master and two moments


@dataclass(frozen=True)
class States:
    """Bytes of one process that do not depend on the batch.

    optimizer_class: the class that holds master weights and moments (DeepSpeed's, or torch's without ZeRO);
    forward_backward_buffers: communication buffers while micro-batches run; optimizer_step_buffers: temporary tensors
    of the optimizer step, when no micro-batch runs; initialization: the weights, and one layer whole in fp32, before
    there is optimizer state; host: offloaded to host memory. reduced, gathered: bytes passed to the data-parallel
    gradient reduction and parameter all-gather in one optimizer step; gathered_in_node: to the all-gathers among
    `layout.zero.hpz_partition_size` neighbours.
    """

    optimizer_class: str
    weights: int
    gradients: int
    optimizer: int
    forward_backward_buffers: int
    optimizer_step_buffers: int
    initialization: int
    host: int = 0
    reduced: int = 0
    gathered: int = 0
    gathered_in_node: int = 0

    @property
    def persistent(self) -> int:
        """Bytes held from step to step."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class MicroBatchRun:
    """Memory of one micro-batch on one pipeline stage, in bytes.

    saved_activations: held from its forward to its backward pass; peak: the most at one time, `saved_activations`
    included; loss: what the head and the loss add; boundary: hidden states sent to the next pipeline stage.
    """

    saved_activations: int
    peak: int
    loss: int
    boundary: int
    collectives: list[Collective]


def optimizer_class_of(settings: Settings, precision: Precision) -> str:
    """Name of the class that holds master weights and optimizer state."""
    layout = settings.layout
    if layout.zero_stage == 0:  # fp32: conf/check.py takes no other there
        return "torch.optim.AdamW"
    if layout.zero_stage == 1 and precision in (Precision.bf16, Precision.fp8) and layout.offload is Offload.none:
        return "BF16_Optimizer"
    return "DeepSpeedZeroOptimizer_Stage3" if layout.zero_stage == 3 else "DeepSpeedZeroOptimizer"


def states(
    parameters: Sequence[nn.Parameter],
    decayed: Sequence[bool],
    buffers: int,
    settings: Settings,
    config: dict[str, Any],
    replicas: int,
    largest_layer: int,
) -> States:
    """Memory of `parameters`, in the run's precision, and of `buffers` bytes of module buffers, on one process.

    Frozen parameters have neither gradients nor optimizer state; ZeRO-3 partitions them as the others.

    decayed: which of them are in the optimizer's group with weight decay: each group is padded by itself; config: from
    `parallel.zero.deepspeed_config`, whose bucket sizes count; replicas: data-parallel processes;
    largest_layer: parameters of the largest layer, which is built whole in fp32.
    """
    every, itemsize = [parameter.numel() for parameter in parameters], parameters[0].element_size()
    trained = [(p.numel(), flag) for p, flag in zip(parameters, decayed, strict=True) if p.requires_grad]
    sizes = [n for n, _ in trained]
    size, largest = sum(sizes), max(sizes)
    if settings.layout.zero_stage < 3:
        buffers += itemsize * (sum(every) - size)
    groups = [sum(n for n, flag in trained if flag is wanted) for wanted in (True, False)]
    flat = sum(-(-group // (2 * replicas)) * 2 * replicas for group in groups)  # padded so that every part is as long
    own = flat // replicas
    precision = {"bf16": Precision.bf16, "fp16": Precision.fp16}
    chosen = next((p for word, p in precision.items() if config[word]["enabled"]), Precision.fp32)
    optimizer_class, zero, layout = optimizer_class_of(settings, chosen), config["zero_optimization"], settings.layout
    alone, count = replicas == 1, config["gradient_accumulation_steps"]
    start = itemsize * size + FULL * largest_layer + buffers
    wire = HALF if settings.layout.reduce_dtype is Precision.bf16 else FULL
    reduced, gathered = (0, 0) if alone else (wire * size, itemsize * flat)
    if optimizer_class == "torch.optim.AdamW":
        step = max(16 * largest, 0 if alone else FULL * min(size, ALLREDUCE_BUCKET))
        return States(optimizer_class, FULL * size + buffers, FULL * size, 8 * size, 0, step, start, 0, reduced, 0)
    if optimizer_class == "BF16_Optimizer":  # whole gradients, in fp32, reduced in place
        weights, reduced = HALF * flat + buffers, 0 if alone else wire * flat
        passes = 0 if alone or wire == FULL else HALF * flat  # buckets on their way, all of them at the worst
        return States(optimizer_class, weights, FULL * flat, ADAM * own, passes, 0, start, 0, reduced, gathered)
    bucket, double = zero["reduce_bucket_size"], 2 if zero["overlap_comm"] else 1
    offload = layout.offload is not Offload.none
    if optimizer_class == "DeepSpeedZeroOptimizer":
        on_host = (ADAM + itemsize) * own if offload else 0
        weights, optimizer = itemsize * flat + buffers, 0 if offload else ADAM * own
        spare = itemsize * largest if offload else 0
        if layout.zero_stage == 1:  # whole gradients in fp32, reduced once a step
            passes = double * FULL * bucket + spare
            return States(
                optimizer_class,
                weights,
                FULL * size,
                optimizer,
                passes,
                2 * FULL * own,
                start,
                on_host,
                reduced,
                gathered,
            )
        passes = (double * itemsize + (FULL if itemsize == HALF else 0)) * max(bucket, largest) + spare
        gradients, on_host = (0, on_host + FULL * own) if offload else (FULL * own, 0)
        step = 0 if offload else FULL * own
        return States(
            optimizer_class, weights, gradients, optimizer, passes, step, start, on_host, reduced * count, gathered
        )
    own, share = (sum(-(-n // replicas) for n in each) for each in (sizes, every))
    kept = sum(n for n in every if n <= zero["stage3_param_persistence_threshold"])
    live = min(sum(every), zero["stage3_max_live_parameters"] + zero["stage3_prefetch_bucket_size"])
    elsewhere = layout.offload is Offload.parameters
    # each parameter's second copy is there from the end of its first forward pass to the end of the step
    near = zero["zero_hpz_partition_size"]
    second = sum(-(-n // near) for n in every if n > zero["stage3_param_persistence_threshold"]) if near > 1 else 0
    weights = itemsize * (kept + (0 if elsewhere else share + second)) + buffers
    first, again = itemsize * sum(every), (2 * count - 1) * itemsize * sum(every)  # gathers: in forward and in backward
    on_host = (ADAM + FULL) * own * offload + itemsize * (share + second) * elsewhere
    return States(
        optimizer_class,
        weights,
        0 if offload else FULL * own,
        0 if offload else ADAM * own,
        itemsize * live + FULL * max(bucket, largest),
        0 if offload else FULL * min(own, zero["sub_group_size"]),
        weights + FULL * largest_layer,
        on_host,
        reduced * count,
        0 if alone else first + again * (near == 1),
        again * (near > 1),
    )


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of live tensors allocated by operations inside the context: current (`now`) and maximum (`peak`)."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count newly allocated storage."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.seen:
                    self.seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def run_micro_batch(
    layers: Sequence[nn.Module], first: bool, last: bool, hidden: tuple[int, ...], seq: int
) -> MicroBatchRun:
    """Run one micro-batch forward and backward through a pipeline stage's layers, on meta tensors, and measure it.

    first, last: whether the pipeline stage takes token ids, and returns the loss; hidden: shape of the hidden states,
    `[micro_batch, seq (seq / tp under sequence parallelism), hidden]`; seq: tokens of the whole sequence.
    """
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    dtype = parameters[0].dtype
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in trained]  # type: ignore[no-untyped-call]
    known = [*parameters, *(buffer for layer in layers for buffer in layer.buffers())]
    with collectives() as record, torch.device("meta"), LiveBytes(known) as live:
        labels = torch.empty(hidden[0], seq, dtype=torch.long)
        x = torch.empty_like(labels) if first else torch.empty(hidden, dtype=dtype, requires_grad=True)
        for layer in layers[:-1]:
            x = layer(x)
        before, live.peak, peak = live.now, live.now, live.peak
        out = layers[-1](x, labels) if last else layers[-1](x)
        loss = live.peak - before if last else 0
        del x
        saved_activations = live.now
        out.backward(None if last else torch.empty(hidden, dtype=dtype))
        peak = max(peak, live.peak)
    for hook in hooks:
        hook.remove()
    return MicroBatchRun(saved_activations, peak, loss, torch.Size(hidden).numel() * dtype.itemsize, record)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
