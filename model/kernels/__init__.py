"""The operations that have more than one form; `select_kernels` chooses those of a run, once, at start-up.

What may enter: an operation with its plain-torch reference and its faster forms, tested against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.choices import BranchesForm, KernelForm
from conf.errors import ConfigError
from conf.schema import KernelsConfig
from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.branches import reference_branches
from parallel.tensor_parallel import Product


@dataclass(frozen=True)
class Kernels:
    """The chosen form of each operation.

    attention: see `model.kernels.attention`; branches: see `model.kernels.branches`; compile: whether the blocks and
    the loss are compiled by torch.compile; compile_blocks: a block as a whole, where no collective is inside it;
    without it, only what lies between a block's two products; product: of those two, and their gradients' (None:
    torch's), see `parallel.tensor_parallel.Product`.
    """

    attention: Callable[..., Tensor]
    branches: Callable[..., Tensor]
    compile: bool
    compile_blocks: bool = True
    product: Product | None = None

    def describe(self) -> dict[str, str]:
        """Operation -> the name of its form, for the log."""
        return {
            "attention": self.attention.__name__,
            "branches": self.branches.__name__,
            "compile": "inductor" if self.compile else "off",
        }


def select_kernels(config: KernelsConfig, device: torch.device | None = None) -> Kernels:
    """The forms that `config` (conf/kernels) asks for. Errors: `ConfigError` for one that `device` cannot run."""
    attention = reference_attention if config.attention is KernelForm.reference else sdpa_attention
    branches = reference_branches
    if config.branches is BranchesForm.triton:
        if device is not None and device.type != "cuda":
            raise ConfigError(f"kernels.branches=triton needs a GPU, not a {device.type}; use kernels.branches=torch")
        from model.kernels.triton_branches import triton_branches as branches  # triton comes with torch for GPUs
    return Kernels(attention, branches, config.compile)


REFERENCE = Kernels(reference_attention, reference_branches, compile=False)
