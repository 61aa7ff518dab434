"""The internals of DeepSpeed that this package relies on: the version proved, and where each optimizer keeps its state.

A class or an attribute that DeepSpeed has renamed is an error here; nothing falls back to another way in silence.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import deepspeed  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer  # type: ignore[import-untyped]
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler  # type: ignore[import-untyped]
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3  # type: ignore[import-untyped]
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer  # type: ignore[import-untyped]
from deepspeed.utils import groups  # type: ignore[import-untyped]
from torch import Tensor

from parallel.mesh import ProcessMesh
from parallel.tensor_parallel import shard_of

PROVED_VERSION = "0.19.8"  # the one in requirements.txt, which the parity suite runs on


class StateLayout(Enum):
    """Where an engine's fp32 weights and AdamW's moments are.

    whole: the parameters themselves are stepped on. flat: replicas hold equal parts of one flat fp32 tensor a parameter
    group (ZeRO-1 and 2). partitioned: replicas hold a part of every parameter (ZeRO-3).
    """

    whole = "whole"
    flat = "flat"
    partitioned = "partitioned"


STATE_LAYOUTS: dict[type, StateLayout] = {
    torch.optim.AdamW: StateLayout.whole,
    BF16_Optimizer: StateLayout.flat,
    DeepSpeedZeroOptimizer: StateLayout.flat,
    DeepSpeedZeroOptimizer_Stage3: StateLayout.partitioned,
}


def version_warning(installed: str = deepspeed.__version__) -> str | None:
    """One line where another DeepSpeed than the proved one is installed, else None.

    A warning and no refusal: a cluster may need another build, and what the code relies on is checked where it is used.
    """
    if installed.partition("+")[0] == PROVED_VERSION:
        return None
    return (
        f"warning: DeepSpeed {installed} is installed and {PROVED_VERSION} is proved; run `bash tests/run.sh "
        f"tests/parity` here first, or pip install deepspeed=={PROVED_VERSION}"
    )


def state_layout(engine: Any) -> StateLayout:
    """How `engine.optimizer` keeps its state. Errors: TypeError naming a class that is not known."""
    kind = type(engine.optimizer)
    if kind not in STATE_LAYOUTS:
        known = ", ".join(each.__name__ for each in STATE_LAYOUTS)
        raise TypeError(
            f"DeepSpeed {deepspeed.__version__} chose {kind.__module__}.{kind.__name__}, whose state this stack cannot "
            f"read (it knows {known}); use another layout.zero_stage or layout.precision"
        )
    return STATE_LAYOUTS[kind]


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """torch's AdamW, which every optimizer of DeepSpeed's wraps."""
    wrapped = state_layout(engine) is not StateLayout.whole
    found = engine.optimizer.optimizer if wrapped else engine.optimizer
    if not isinstance(found, torch.optim.AdamW):
        raise TypeError(f"DeepSpeed wraps {type(found).__name__}, not torch.optim.AdamW, which was given to it")
    return found


def stepped_tensors(engine: Any) -> list[Tensor]:
    """What AdamW steps on in this process: parameters, or fp32 parts. ZeRO-3 shows AdamW its parts only in the step."""
    if state_layout(engine) is StateLayout.partitioned:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return [tensor for group in torch_optimizer(engine).param_groups for tensor in group["params"]]


def link_optimizer_state(engine: Any) -> None:
    """Tell DeepSpeed's flat optimizers that AdamW has its state now, so that a parameter's part of it can be found."""
    if state_layout(engine) is StateLayout.flat:
        engine.optimizer._lazy_init_hp_params_optimizer_state()
        if not engine.optimizer._hp_optimizer_states_linked:
            raise RuntimeError(f"DeepSpeed {deepspeed.__version__} did not link AdamW's state to the parameters")


@contextmanager
def device_of(mesh: ProcessMesh) -> Iterator[None]:
    """DeepSpeed takes its device from LOCAL_RANK: here that of the mesh, which is 0 where a process sees one GPU."""
    rank = os.environ["LOCAL_RANK"]
    os.environ["LOCAL_RANK"] = rank if mesh.device.index is None else str(mesh.device.index)
    try:
        yield
    finally:
        os.environ["LOCAL_RANK"] = rank


@functools.cache
def _neighbours(size: int) -> Any:
    """The group of this process among each `size` that follow each other."""
    starts = range(0, dist.get_world_size(), size)
    found = [dist.new_group(list(range(start, start + size))) for start in starts]
    return found[dist.get_rank() // size]


def node_group(size: int) -> Any:
    """The group that keeps ZeRO-3's second copy of the weights; None for size 1. DeepSpeed makes one size only."""
    if not hasattr(groups, "_ZERO_PARAM_INTRA_PARALLEL_GROUP"):
        raise AttributeError(f"DeepSpeed {deepspeed.__version__}: groups has no _ZERO_PARAM_INTRA_PARALLEL_GROUP")
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = _neighbours(size) if size > 1 else None
    return groups._ZERO_PARAM_INTRA_PARALLEL_GROUP


def replace_method(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a method of one of DeepSpeed's objects. Errors: AttributeError where its class has no such method."""
    if not callable(getattr(type(owner), name, None)):
        raise AttributeError(f"DeepSpeed {deepspeed.__version__}: {type(owner).__name__} has no method {name}")
    setattr(owner, name, function)


def loss_scaler(engine: Any) -> Any:
    """fp16's dynamic scaler of the loss; None in other precisions. Errors: TypeError for a scaler of another class."""
    if not engine.fp16_enabled():
        return None
    scaler = engine.optimizer.loss_scaler
    if type(scaler) is not DynamicLossScaler:
        raise TypeError(f"DeepSpeed scales fp16's loss by {type(scaler).__name__}, not by DynamicLossScaler")
    return scaler


def can_lower_loss_scale(engine: Any) -> bool:
    """Whether fp16's scale of the loss is above `layout.loss_scale.minimum`; False in other precisions."""
    scaler = loss_scaler(engine)
    return scaler is not None and bool(scaler.cur_scale > scaler.min_scale)


def built_shape(parameter: Tensor) -> torch.Size:
    """The shape that a parameter of this process was built with. ZeRO-3 empties it between uses."""
    return torch.Size(parameter.ds_shape) if is_partitioned(parameter) else parameter.shape  # type: ignore[attr-defined]


def is_partitioned(parameter: Tensor) -> bool:
    """Whether ZeRO-3 has partitioned the parameter."""
    return hasattr(parameter, "ds_id")


def guard_steps(engine: Any, mesh: ProcessMesh) -> None:
    """Take no optimizer step where any gradient of any process is not finite, under every layout and precision."""
    if state_layout(engine) is StateLayout.whole:
        _guard_plain_step(engine, mesh)
    else:
        _check_every_gradient(engine)


def _guard_plain_step(engine: Any, mesh: ProcessMesh) -> None:
    """Without ZeRO, clip fp32 gradients ourselves, keep their norm, and take no step where one is not finite.

    There DeepSpeed reports no norm, leaves parameters that tensor ranks share out of it on all pipeline stages but the
    first, and takes every step. A gradient that is not finite on one process only keeps all of them from the step.
    """
    optimizer = engine.optimizer
    take_step = optimizer.step
    clip_calls: list[bool] = []

    def step(*_: Any) -> None:
        if not clip_calls and engine.gradient_clipping() > 0:
            raise RuntimeError("DeepSpeed did not call clip_fp32_gradients before its optimizer step; is it renamed?")
        gradients = [(p, p.grad) for p in engine.module.parameters() if p.grad is not None]
        squares = [g.double().square().sum() for _, g in gradients]
        counted = [
            s for s, (p, _) in zip(squares, gradients, strict=True) if shard_of(p) is not None or not mesh.tp.rank
        ]
        zero = torch.zeros((), dtype=torch.float64, device=mesh.device)
        totals = torch.stack([torch.stack(counted or [zero]).sum(), torch.stack(squares or [zero]).sum() * 0])
        dist.all_reduce(totals, group=mesh.grid.get_model_parallel_group())
        dist.all_reduce(totals[1:], group=mesh.grid.get_data_parallel_group())
        norm = float(totals.sum().sqrt())  # the second is 0, or nan where any gradient anywhere is not finite
        engine._global_grad_norm = norm
        optimizer.overflow = not math.isfinite(norm)  # by this name DeepSpeed knows a step that was not taken
        if optimizer.overflow:
            return
        limit = engine.gradient_clipping()
        if 0 < limit < norm:
            torch._foreach_mul_([g for _, g in gradients], limit / norm)
        take_step()

    replace_method(engine, "clip_fp32_gradients", lambda: clip_calls.append(True))
    replace_method(optimizer, "step", step)


def _check_every_gradient(engine: Any) -> None:
    """With ZeRO, take no step where any gradient is not finite, in every precision, and forget the gradients of it.

    Of itself DeepSpeed looks at the norm only, to which one tensor rank adds what all of them share: ZeRO-1 and 2 in
    fp32, ZeRO-3 in fp32 and bf16. And where ZeRO-1 and 2 offload the optimizer of half-precision weights, it keeps the
    fp32 sums of a step that is not taken, and adds to them: no later sum is finite.
    """
    optimizer = engine.optimizer
    optimizer.check_grad_overflow = True
    if state_layout(engine) is StateLayout.partitioned:  # the scale is updated after the norm
        replace_method(optimizer, "_overflow_check_and_loss_scale_update", lambda **_: optimizer.check_overflow())
    if type(optimizer) is DeepSpeedZeroOptimizer:
        reset_buffers = optimizer.reset_cpu_buffers  # called, with offloading, after every step, taken or not

        def reset_with_sums() -> None:
            reset_buffers()
            optimizer.averaged_gradients.clear()

        replace_method(optimizer, "reset_cpu_buffers", reset_with_sums)
