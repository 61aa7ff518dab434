"""AdamW and which parameters decay."""

import re
from collections.abc import Callable

import torch
from torch import nn

from conf.choices import Decay
from conf.schema import OptimizerConfig
from parallel.deepspeed_internals import built_shape


def decays(name: str, parameter: nn.Parameter, decay: Decay, n_layer: int) -> bool:
    """Whether weight decay applies to the parameter `name` ("3.in_proj.weight").

    matrices: it has two or more dimensions. jaxformer: all but the final norm and the head's bias. That code decayed
    whatever had two dimensions, and a block's vectors had: they were stacked over the layers.
    """
    if decay is Decay.matrices:
        return len(built_shape(parameter)) > 1
    return not re.fullmatch(rf"{n_layer + 1}\.(norm\.weight|norm\.bias|bias)", name)


def adamw(
    named: list[tuple[str, nn.Parameter]],
    settings: OptimizerConfig,
    n_layer: int,
    form: Callable[[torch.optim.AdamW], None] | None = None,
) -> torch.optim.Optimizer:
    """torch's fused AdamW in two groups, with and without decay. The rate is set by the schedule before each step.

    form: `Kernels.optimizer`, which has it step by another kernel.
    """
    groups = {flag: [p for n, p in named if decays(n, p, settings.decay, n_layer) is flag] for flag in (True, False)}
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": settings.weight_decay if flag else 0.0}
            for flag, parameters in groups.items()
            if parameters
        ],
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
    if form is not None:
        form(optimizer)
    return optimizer
