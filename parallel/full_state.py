"""What an engine has learnt, as whole fp32 tensors that belong to no layout, and back into the slices of this one.

DeepSpeed keeps weights and AdamW's moments where they are used: cut over replicas (ZeRO), tensor ranks and pipeline
stages. Here each parameter's are put together, or cut again; the rest of the state is a few numbers. (DeepSpeed's
universal checkpoint does this between files, by a conversion that writes everything once more, and not without ZeRO.)
"""

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

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")  # by torch.optim.AdamW's names
SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's loss scaler


def create_moments(engine: Any) -> None:
    """AdamW's state as it is before the first step, in which torch would make it: so it can be filled, or saved."""
    optimizer = _adamw(engine)
    for tensor in _tensors_of(engine):
        optimizer.state[tensor] = {"step": torch.tensor(0.0, device=tensor.device)}
        optimizer.state[tensor] |= {moment: torch.zeros_like(tensor) for moment in MOMENTS}
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):  # DeepSpeed finds a parameter's part by it
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def gather(engine: Any, parameter: nn.Parameter, what: str) -> Tensor:
    """The replicas' parts of `what` (`WEIGHTS` or one of `MOMENTS`) together: fp32, of the shape that was built.

    Every replica calls it.
    """
    if what == WEIGHTS:
        value = safe_get_full_fp32_param(parameter)
        value = parameter if value is None else value  # no ZeRO: fp32 weights
    else:
        value = safe_get_full_optimizer_state(parameter, what)
        value = _adamw(engine).state[parameter][what] if value is None else value
    return value.detach().view(getattr(parameter, "ds_shape", parameter.shape))  # type: ignore[no-any-return]


def is_held(parameter: nn.Parameter) -> bool:
    """Whether this replica keeps any of the parameter's fp32 weights and moments."""
    return getattr(parameter, "_hp_mapping", parameter) is not None


@torch.no_grad()
def scatter(engine: Any, parameter: nn.Parameter, what: str, value: Tensor) -> None:
    """Set this replica's part of `what` from `value`, of the shape that was built. The weights that are computed with
    are not touched where they are another copy."""
    value = value.float()
    if hasattr(parameter, "ds_id"):  # ZeRO-3: the last replica's part may be longer than what is left for it
        zero3: Any = parameter
        size, rank = zero3.ds_tensor.numel(), dist.get_rank(zero3.ds_process_group)
        part = value.flatten()[rank * size : (rank + 1) * size]
        part = torch.nn.functional.pad(part, (0, size - part.numel()))
        if what == WEIGHTS:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, what)
    elif hasattr(parameter, "_hp_mapping"):
        if what == WEIGHTS:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, what)
    else:
        (parameter if what == WEIGHTS else _adamw(engine).state[parameter][what]).copy_(value)


def trainer_state(engine: Any) -> dict[str, Any]:
    """The numbers beside the tensors, as JSON; the same on every process."""
    scaler = _loss_scaler(engine)
    return {
        "adam_steps": int(_adamw(engine).state[_tensors_of(engine)[0]]["step"]),
        "steps": engine.global_steps,
        "skipped_steps": engine.skipped_steps,
        "loss_scale": {key: getattr(scaler, key) for key in SCALE if hasattr(scaler, key)},
    }


def load_trainer_state(engine: Any, saved: dict[str, Any]) -> None:
    """Take up what `trainer_state` told."""
    for tensor in _tensors_of(engine):
        _adamw(engine).state[tensor]["step"].fill_(saved["adam_steps"])
    engine.global_steps, engine.skipped_steps = saved["steps"], saved["skipped_steps"]
    engine.global_samples = engine.global_steps * engine.train_batch_size()
    scaler = _loss_scaler(engine)
    for key, value in saved["loss_scale"].items():
        if hasattr(scaler, key):
            setattr(scaler, key, value)


def _loss_scaler(engine: Any) -> Any:
    """fp16's; None in other precisions, where the loss has no scale."""
    return engine.optimizer.loss_scaler if engine.fp16_enabled() else None


def _adamw(engine: Any) -> torch.optim.Optimizer:
    """torch's optimizer, which DeepSpeed wraps in its own where it partitions."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)  # type: ignore[no-any-return]


def _tensors_of(engine: Any) -> list[Tensor]:
    """What torch's optimizer steps on here: parameters, or flat fp32 parts of many, which ZeRO-3 hands it in turns."""
    groups = [tensor for group in _adamw(engine).param_groups for tensor in group["params"]]
    return list(getattr(engine.optimizer, "fp32_partitioned_groups_flat", groups))
