"""ZeRO-1 in bf16 with overlap: gradients are reduced during backward, weights gathered during the next forward.

DeepSpeed's `BF16_Optimizer` all-reduces every gradient whole once the backward pass is over, and gathers every weight
before the next forward pass begins. Here a bucket is reduce-scattered as soon as the last micro-batch has added its
last gradient, and its weights are all-gathered until a layer needs them, as in Megatron-LM's distributed optimizer:
half the traffic of an all-reduce, most of it beside computation. Buckets count gradients, so that any pipeline schedule
will do.

Between backward and AdamW the gradients are read once, for their norm: a step's first gradient is written over the last
step's sum, and AdamW divides by the replicas and by what clipping asks for.

`BF16_Optimizer` partitions each parameter group over the replicas by itself, so a bucket is made a parameter group.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.deepspeed_internals import replace_method, torch_optimizer
from parallel.main_gradient import MainGradient, attach
from parallel.mesh import ProcessMesh
from parallel.tensor_parallel import shard_of


def bucket_parameter_groups(optimizer: torch.optim.Optimizer, elements: int) -> None:
    """Split each parameter group, in order, into groups of at most `elements` or of one parameter, in place."""
    groups = []
    for group in optimizer.param_groups:
        buckets: list[list[nn.Parameter]] = []
        for parameter in group["params"]:
            if not buckets or sum(each.numel() for each in buckets[-1]) + parameter.numel() > elements:
                buckets.append([])
            buckets[-1].append(parameter)
        groups += [{**group, "params": bucket} for bucket in buckets]
    optimizer.param_groups[:] = groups


@dataclass
class Bucket:
    """One parameter group, flat, padded so that each replica's part is as long.

    gradients: fp32 sums over this replica's micro-batches; own_*: views of this replica's part; masters: fp32 weights
    of that part; counted, uncounted: the slices of own_gradients that this tensor-parallel rank adds to the gradient
    norm, and those that another one does. missing: gradients still to come in this optimizer step, of `expected`.
    """

    gradients: Tensor
    own_gradients: Tensor
    weights: Tensor
    own_weights: Tensor
    masters: Tensor
    counted: list[Tensor]
    uncounted: list[Tensor]
    expected: int
    missing: int
    cast: tuple[Tensor, Tensor] | None = None  # what is sent and received, where it travels in another format
    pending: list[Any] = field(default_factory=list)  # the reduce-scatter, or the all-gather, under way

    def wait(self) -> None:
        """Wait for what is under way; on a GPU, make its stream wait."""
        while self.pending:
            self.pending.pop().wait()


class OverlappedReduction:
    """Takes over the reduction of gradients, their norm, and the gathering of weights from a `BF16_Optimizer`."""

    def __init__(self, engine: Any, mesh: ProcessMesh) -> None:
        self.group, self.dp_size = mesh.grid.get_data_parallel_group(), mesh.dp_size
        self.optimizer, self.dtype = engine.optimizer, engine.communication_data_type
        optimizer, self.adamw = self.optimizer, torch_optimizer(engine)
        self.reduced = False
        self.sums: dict[nn.Parameter, MainGradient] = {}
        bucket_of: dict[nn.Parameter, Bucket] = {}
        for index, parameters in enumerate(optimizer.bf16_groups):
            bucket = _bucket(optimizer, index, mesh, engine.gradient_accumulation_steps())
            bucket_of |= dict.fromkeys(parameters, bucket)
            for parameter, total in zip(parameters, optimizer.fp32_groups_gradients[index], strict=True):
                self.sums[parameter] = attach(parameter, total, partial(self._count, bucket))
        in_order = [bucket_of[parameter] for parameter in engine.module.parameters() if parameter.requires_grad]
        self.buckets = list({id(bucket): bucket for bucket in in_order}.values())  # in the order of use
        for layer in engine.module.children():
            used = list({id(bucket_of[p]): bucket_of[p] for p in layer.parameters() if p.requires_grad}.values())
            if used:
                layer.register_forward_pre_hook(lambda *_, used=used: [bucket.wait() for bucket in used] and None)
        replace_method(optimizer, "accumulate_hp_grads_and_remove_lp", self._add)  # what DeepSpeed's hooks call
        replace_method(optimizer, "clear_hp_grads", lambda: None)
        replace_method(engine, "buffered_allreduce_fallback", self._finish_reduction)
        replace_method(optimizer, "get_grads_for_norm", self._gradients_for_norm)
        replace_method(optimizer, "update_lp_params", self._start_gathering)
        optimizer.mpu = _EveryProcess(optimizer.mpu)

    def wait(self) -> None:
        """Wait for every collective under way."""
        for bucket in self.buckets:
            bucket.wait()

    @torch.no_grad()
    def _add(self, parameter: nn.Parameter, *_: int) -> None:
        if parameter.grad is not None:
            self.sums[parameter].add(parameter.grad)
            parameter.grad = None

    def _count(self, bucket: Bucket) -> None:
        bucket.missing -= 1
        if bucket.missing == 0 and self.dp_size > 1:
            sent, received = bucket.gradients, bucket.own_gradients
            if self.dtype is not torch.float32:
                sent, received = bucket.cast = sent.to(self.dtype), torch.empty_like(received, dtype=self.dtype)
            bucket.pending.append(dist.reduce_scatter_tensor(received, sent, group=self.group, async_op=True))

    def _finish_reduction(self, *_: Any, **__: Any) -> None:
        for bucket in self.buckets:
            if bucket.missing:
                raise RuntimeError(f"{bucket.missing} of {bucket.expected} gradients of a bucket were not computed")
            bucket.missing = bucket.expected
            bucket.wait()
            if bucket.cast is not None:
                bucket.own_gradients.copy_(bucket.cast[1])
                bucket.cast = None
        for total in self.sums.values():
            total.end_step()
        self.reduced = True

    def _gradients_for_norm(self, for_clipping: bool = False) -> Any:
        """As `BF16_Optimizer.get_grads_for_norm`: gradients and, for the norm, those of experts (none)."""
        if not self.reduced:
            raise RuntimeError("DeepSpeed took an optimizer step without calling `buffered_allreduce_fallback`")
        if for_clipping:
            limit = self.optimizer.clip_grad / (self.optimizer._global_grad_norm + 1e-6)
            self.adamw.grad_scale = self.dp_size / limit.clamp(max=1.0)  # type: ignore[attr-defined]
            return []
        counted = [piece for bucket in self.buckets for piece in bucket.counted] or [self.buckets[0].own_gradients[:0]]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(counted))) / self.dp_size
        self.adamw.grad_scale = torch.full_like(norm, self.dp_size)  # type: ignore[attr-defined]
        uncounted = [piece for bucket in self.buckets for piece in bucket.uncounted]
        # 0, or nan where a gradient is not finite of a replicated parameter that another rank counts
        return [norm, *(other * 0 for other in torch._foreach_norm(uncounted))] if uncounted else [norm], {}

    @torch.no_grad()
    def _start_gathering(self) -> None:
        self.reduced = False
        for bucket in self.buckets:
            bucket.own_weights.copy_(bucket.masters)
            if self.dp_size > 1:
                work = dist.all_gather_into_tensor(bucket.weights, bucket.own_weights, group=self.group, async_op=True)
                bucket.pending.append(work)


def _bucket(optimizer: Any, index: int, mesh: ProcessMesh, accumulation_steps: int) -> Bucket:
    gradients, own = optimizer.fp32_groups_gradients_flat[index], optimizer.fp32_groups_gradient_flat_partition[index]
    parameters = optimizer.bf16_groups[index]
    first, offset = mesh.dp_rank * own.numel(), 0
    slices: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in parameters if mesh.tp.rank else []:
        start, end = (min(max(edge - first, 0), own.numel()) for edge in (offset, offset + parameter.numel()))
        slices[shard_of(parameter) is not None].append(own[start:end])
        offset += parameter.numel()
    expected = len(parameters) * accumulation_steps
    return Bucket(
        gradients,
        own,
        optimizer.bf16_groups_flat[index],
        optimizer.bf16_partitioned_groups[index][mesh.dp_rank],
        optimizer.fp32_groups_flat_partition[index],
        slices[True] if mesh.tp.rank else [own],
        slices[False],
        expected,
        expected,
    )


class _EveryProcess:
    """DeepSpeed's `mpu` for a norm of parts: replicas hold different ones, so the sum is over every process."""

    def __init__(self, mpu: Any) -> None:
        self.mpu = mpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mpu, name)

    def get_model_parallel_group(self) -> Any:
        """The group that the squares of the norm are summed over."""
        return dist.group.WORLD
