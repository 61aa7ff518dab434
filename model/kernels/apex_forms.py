"""NVIDIA's apex, where it is installed: LayerNorm, and weight gradients added to fp32 sums by cuBLAS.

Names and arguments are those of github.com/NVIDIA/apex at 6424da3b (July 2026): `fused_layer_norm_affine` in
apex/normalization/fused_layer_norm.py, built by APEX_CUDA_EXT=1; `wgrad_gemm_accum_fp32` in
csrc/megatron/fused_weight_gradient_dense.cpp, of the extension `fused_weight_gradient_mlp_cuda`.
"""

from importlib.util import find_spec

from torch import Tensor

from conf.errors import ConfigError

MODULES = {"norm": "apex", "weight_gradient": "fused_weight_gradient_mlp_cuda"}  # what each operation imports


def require(operation: str) -> None:
    """Errors: `ConfigError` where apex, or its extension for `kernels.<operation>`, is not installed."""
    if find_spec(MODULES[operation]) is None:
        raise ConfigError(
            f"kernels.{operation}=apex needs NVIDIA's apex, and there is no module {MODULES[operation]}; install it "
            f"as README.md says, or use kernels.{operation}=auto"
        )


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
