"""NVIDIA's apex, where it is installed: LayerNorm, weight gradients added to fp32 sums by cuBLAS, and AdamW.

Names and arguments are those of github.com/NVIDIA/apex at 6424da3b (July 2026): `fused_layer_norm_affine` in
apex/normalization/fused_layer_norm.py, built by APEX_CUDA_EXT=1; `wgrad_gemm_accum_fp32` in
csrc/megatron/fused_weight_gradient_dense.cpp, of the extension `fused_weight_gradient_mlp_cuda`;
`multi_tensor_adam_capturable` in csrc/multi_tensor_adam.cu, of `amp_C`, called as apex/optimizers/fused_adam.py does.

DeepSpeed's FusedAdam is no form of its own: it is an older copy of that kernel, which nvcc has to compile on each node
and which cannot divide gradients by a scale, so that they would be read and written once more. Nor is AdamW timed at
start-up: torch's fused form moves 87% of what a copy moves on an H100, so that no other can save a hundredth of a step
(tests/benchmarks/RESULTS.md; `python -m tests.benchmarks.kernels --operations optimizer`).
"""

from typing import Any

import torch
from torch import Tensor


def apex_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """LayerNorm of x `[..., d]` by weight and bias `[d]`."""
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine  # type: ignore[import-not-found]

    return fused_layer_norm_affine(x, weight, bias, list(weight.shape), epsilon)  # type: ignore[no-any-return]


def apex_add_of_weight(total: Tensor, gradient: tuple[Tensor, ...], kept: tuple[Tensor, ...], empty: bool) -> None:
    """Add `gradient.T @ x` to the fp32 `total` `[out, in]`; gradient `[m, out]`, kept: x `[m, in]`."""
    from fused_weight_gradient_mlp_cuda import wgrad_gemm_accum_fp32  # type: ignore[import-not-found]

    if empty:
        total.zero_()  # it only adds
    wgrad_gemm_accum_fp32(kept[0].contiguous(), gradient[0].contiguous(), total)


def apex_adamw(optimizer: torch.optim.AdamW) -> None:
    """Have `optimizer` take its steps by apex's kernel where its parameters are on a GPU (offloaded ones are not).

    It stays torch's AdamW, with torch's state, so that DeepSpeed and a checkpoint see no difference.
    """
    in_torch = optimizer.step

    def step() -> Any:
        on_gpu = optimizer.param_groups[0]["params"][0].is_cuda
        return apex_step(optimizer) if on_gpu else in_torch()

    optimizer.step = step  # type: ignore[assignment, method-assign]


@torch.no_grad()
def apex_step(optimizer: torch.optim.AdamW) -> None:
    """One step of `optimizer`; gradients are divided by its `grad_scale`, where it has one, as torch's fused form does.

    All parameters of a group have taken as many steps.
    """
    from amp_C import multi_tensor_adam_capturable  # type: ignore[import-not-found]
    from apex.multi_tensor_apply import multi_tensor_applier  # type: ignore[import-not-found]

    for group in optimizer.param_groups:
        parameters, gradients, first, second, _, steps = lists = [[] for _ in range(6)]  # type: ignore[var-annotated]
        optimizer._init_group(group, *lists)  # type: ignore[no-untyped-call]
        if not parameters:
            continue
        torch._foreach_add_(steps, 1)
        one = steps[0].new_ones(1)
        inverse = one / getattr(optimizer, "grad_scale", one)
        multi_tensor_applier(
            multi_tensor_adam_capturable,
            one.int() * 0,  # nothing overflowed
            [gradients, parameters, first, second],
            one * group["lr"],
            *group["betas"],
            group["eps"],
            steps[0].int(),
            1,  # decoupled decay
            1,  # bias correction
            group["weight_decay"],
            inverse,
        )
