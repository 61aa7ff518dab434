"""The operations that have more than one form; `select_kernels` chooses those of a run, once, at start-up.

What may enter: an operation with its plain-torch reference and its faster forms, tested against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from conf.choices import ApexForm, FusedForm, KernelForm, NormForm
from conf.schema import KernelsConfig, ModelConfig
from conf.this_machine import check_kernel
from model.kernels.apex_forms import apex_adamw, apex_add_of_weight, apex_norm
from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.branches import reference_branches
from model.kernels.cpu_attention import blocked_attention
from model.kernels.documents import Documents, flex_attention, flex_documents, masked_documents
from model.kernels.measured_attention import fastest_attention
from parallel.tensor_parallel import AddOfWeight, Norm, Products


@dataclass(frozen=True)
class Kernels:
    """The chosen form of each operation.

    attention: see `model.kernels.attention`; branches: see `model.kernels.branches`; compile: whether the blocks and
    the loss are compiled by torch.compile; compile_blocks: a block as a whole, where no collective is inside it;
    without it, only what lies between a block's two products; products: those two, and their gradients', see
    `parallel.tensor_parallel.Products`; norm: LayerNorm, see `model.kernels.triton_norm`; None: torch's of either;
    add_of_weight: adds weight gradients to their fp32 sums (None: torch);
    optimizer: has AdamW take its steps by another kernel than torch's fused one (None);
    documents: what the blocks share of documents that do not see each other, and document_attention, which takes its
    mask: see `model.kernels.documents`.
    """

    attention: Callable[..., Tensor]
    branches: Callable[..., Tensor]
    compile: bool
    compile_blocks: bool = True
    products: Products | None = None
    norm: Norm | None = None
    documents: Callable[[Tensor], Documents] = masked_documents
    document_attention: Callable[..., Tensor] = reference_attention
    add_of_weight: AddOfWeight | None = None
    optimizer: Callable[[torch.optim.AdamW], None] | None = None

    def describe(self) -> dict[str, str]:
        """Operation -> the name of its form, for the log."""
        return {
            "attention": self.attention.__name__,
            "branches": self.branches.__name__,
            "norm": "torch" if self.norm is None else self.norm.__name__,
            "weight_gradient": "torch" if self.add_of_weight is None else self.add_of_weight.__name__,
            "optimizer": "torch" if self.optimizer is None else self.optimizer.__name__,
            "compile": "inductor" if self.compile else "off",
        }


def select_kernels(
    config: KernelsConfig,
    device: torch.device | None = None,
    model: ModelConfig | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Kernels:
    """The forms that `config` (conf/kernels) asks for; a GPU's attention is timed where a `model`'s heads are known.

    Errors: `ConfigError` for a form that `device` cannot run.
    """
    attention: Callable[..., Tensor] = sdpa_attention
    if config.attention is KernelForm.reference:
        attention = reference_attention
    elif model is not None and device is not None and device.type == "cuda":
        attention = fastest_attention(model.n_head, model.head_dim, model.context_length, dtype, device)
    elif device is not None and device.type == "cpu":
        attention = blocked_attention
    branches: Callable[..., Tensor] = reference_branches
    norm: Norm | None = None
    if _in_triton("branches", config.branches, device):
        from model.kernels.triton_branches import triton_branches as branches  # triton comes with torch for GPUs
    if _in_triton("norm", config.norm, device):
        from model.kernels.triton_norm import triton_norm as norm
    add_of_weight: AddOfWeight | None = None
    if _in_apex("norm", config.norm, device):
        norm = apex_norm
    if _in_apex("weight_gradient", config.weight_gradient, device):
        add_of_weight = apex_add_of_weight
    optimizer = apex_adamw if _in_apex("optimizer", config.optimizer, device) else None
    documents: Callable[[Tensor], Documents] = masked_documents
    document_attention: Callable[..., Tensor] = attention
    if device is not None and device.type == "cuda" and config.attention is KernelForm.auto:
        documents, document_attention = flex_documents, flex_attention
    # where Triton computes a block's middle, only single operations are left between its two products and around them
    whole = branches is reference_branches
    return Kernels(
        attention,
        branches,
        config.compile,
        whole,
        None,
        norm,
        documents,
        document_attention,
        add_of_weight,
        optimizer,
    )


def _in_triton(operation: str, form: FusedForm | NormForm, device: torch.device | None) -> bool:
    check_kernel(operation, form, None if device is None else device.type)
    on_gpu = device is not None and device.type == "cuda"
    return form.value == "triton" or (form.value == "auto" and on_gpu and find_spec("triton") is not None)


def _in_apex(operation: str, form: NormForm | ApexForm, device: torch.device | None) -> bool:
    check_kernel(operation, form, None if device is None else device.type)
    return form in (NormForm.apex, ApexForm.apex)


REFERENCE = Kernels(reference_attention, reference_branches, compile=False)
