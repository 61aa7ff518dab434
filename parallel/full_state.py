"""An engine's state as whole fp32 tensors that belong to no layout, and back into the parts that this layout keeps.

DeepSpeed keeps weights and AdamW's moments split over replicas (ZeRO), tensor ranks and pipeline stages. Here each
parameter's parts over the replicas are gathered, or set; the rest of the state is a few numbers. (DeepSpeed's universal
checkpoint does this between files, by a conversion that writes everything once more, and not without ZeRO.)
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (  # type: ignore[import-untyped]
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from parallel.deepspeed_internals import (
    StateLayout,
    built_shape,
    link_optimizer_state,
    loss_scaler,
    state_layout,
    stepped_tensors,
    torch_optimizer,
)

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")  # by torch.optim.AdamW's names
SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's DynamicLossScaler


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of `module` that are not frozen, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def create_moments(engine: Any) -> None:
    """Create AdamW's state as torch would in the first step, so that it can be loaded or saved before it."""
    optimizer = torch_optimizer(engine)
    for tensor in stepped_tensors(engine):
        optimizer.state[tensor] = {"step": torch.tensor(0.0, device=tensor.device)}
        optimizer.state[tensor] |= {moment: torch.zeros_like(tensor) for moment in MOMENTS}
    link_optimizer_state(engine)


def gather(engine: Any, parameter: nn.Parameter, what: str) -> Tensor:
    """`what` (`WEIGHTS` or one of `MOMENTS`) of a parameter, gathered over the replicas: fp32, in its built shape.

    Every replica calls it.
    """
    if state_layout(engine) is StateLayout.whole:
        value = parameter if what == WEIGHTS else torch_optimizer(engine).state[parameter][what]
    elif (own := _held_alone(engine, parameter, what)) is not None:
        value = own
    elif what == WEIGHTS:
        value = safe_get_full_fp32_param(parameter)
    else:
        value = safe_get_full_optimizer_state(parameter, what)
    return value.detach().view(built_shape(parameter))


def _held_alone(engine: Any, parameter: Any, what: str) -> Tensor | None:
    """`what` of a parameter that has no other replica; DeepSpeed copies it and reduces it over this process alone."""
    if state_layout(engine) is not StateLayout.flat or dist.get_world_size(parameter._dp_group) > 1:
        return None
    return parameter._hp_mapping.get_hp_fragment(None if what == WEIGHTS else what)  # type: ignore[no-any-return]


def to_host(value: Tensor) -> Tensor:
    """A copy of `value` in host memory, fp32; pinned where it comes from a GPU, to which that copies several times as
    fast."""
    host = torch.empty(value.shape, dtype=torch.float32, pin_memory=value.is_cuda)
    return host.copy_(value.detach())


def is_held(engine: Any, parameter: nn.Parameter) -> bool:
    """Whether this replica keeps any part of the parameter's fp32 weights and moments."""
    if state_layout(engine) is StateLayout.flat:
        return parameter._hp_mapping is not None  # type: ignore[attr-defined]
    return True


@torch.no_grad()
def scatter(engine: Any, parameter: nn.Parameter, what: str, value: Tensor) -> None:
    """Set this replica's part of `what` from `value`, in the parameter's built shape.

    Where the weights that are computed with are another copy (bf16, fp16), that copy is not changed.
    """
    value, layout = value.float(), state_layout(engine)
    if layout is StateLayout.whole:
        (parameter if what == WEIGHTS else torch_optimizer(engine).state[parameter][what]).copy_(value)
    elif layout is StateLayout.flat:
        if what == WEIGHTS:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, what)
    else:
        part = _own_part(parameter, value)
        if what == WEIGHTS:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, what)


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """This replica's part of a parameter that ZeRO-3 partitions, padded with zeros where the last is not full."""
    size, rank = parameter.ds_tensor.numel(), dist.get_rank(parameter.ds_process_group)
    part = value.flatten()[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(part, (0, size - part.numel()))


def trainer_state(engine: Any) -> dict[str, Any]:
    """The rest of the state, as JSON: counts of steps, and the loss scale of fp16. The same on every process."""
    scaler = loss_scaler(engine)
    return {
        "adam_steps": int(torch_optimizer(engine).state[stepped_tensors(engine)[0]]["step"]),
        "steps": engine.global_steps,
        "skipped_steps": engine.skipped_steps,
        "loss_scale": {} if scaler is None else {key: getattr(scaler, key) for key in SCALE},
    }


def load_trainer_state(engine: Any, saved: dict[str, Any]) -> None:
    """Set what `trainer_state` returned. A loss scale is used only where this engine has one."""
    for tensor in stepped_tensors(engine):
        torch_optimizer(engine).state[tensor]["step"].fill_(saved["adam_steps"])
    engine.global_steps, engine.skipped_steps = saved["steps"], saved["skipped_steps"]
    engine.global_samples = engine.global_steps * engine.train_batch_size()
    scaler = loss_scaler(engine)
    if scaler is not None:
        for key, value in saved["loss_scale"].items():
            if not hasattr(scaler, key):
                raise AttributeError(f"DeepSpeed's DynamicLossScaler has no {key}")
            setattr(scaler, key, value)
