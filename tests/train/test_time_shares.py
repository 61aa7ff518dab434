"""Traces are written by hand, with names that CUDA and torch give; the sums are known."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from train.time_shares import STEP, read_trace, time_table

KERNELS = {  # as H100s and A100s name them
    "matmul": [
        "nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NTT",
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_nn_align8>(Params)",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64",
        "ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_tn",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>(Params)",
        "triton_tem_fused_mm_3",
    ],
    "attention": [
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64, 64, 4>>(Flash_fwd_params)",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7_64x64x128",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel::Params)",
    ],
    "elementwise": [
        "triton_poi_fused__scaled_dot_product_flash_attention_mm_0",
        "triton_red_fused_native_layer_norm_1",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>(TensorListMetadata)",
        "Memcpy DtoD (Device -> Device)",
    ],
    "collectives": [
        "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    ],
}


def event(name: str, start: float, length: float, category: str = "kernel") -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": length, "tid": 1, "pid": 1}


def write(folder: Path, *events: dict[str, Any]) -> Path:
    path = folder / "rank_0.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": [*events, {"ph": "M", "name": "process_name"}]}, file)
    return path


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KERNELS.items() for name in names])
def test_kernels_are_known_by_their_names(kind: str, name: str, tmp_path: Path) -> None:
    category = "gpu_memcpy" if name.startswith("Memcpy") else "kernel"
    mark = event(STEP, 0, 10, "user_annotation")
    shares = read_trace(write(tmp_path, mark, event(name, 2, 5, category)))
    assert shares.spent.pop(kind) == 5 and shares.spent.pop("idle") == 5 and not any(shares.spent.values())


def test_a_collective_counts_where_nothing_runs_beside_it(tmp_path: Path) -> None:
    """Two steps of 100 us, and time between them, with kernels in it, that belongs to neither."""
    marks = [event(STEP, start, 100, "user_annotation") for start in (1000, 1200)]
    kernels = [event("nvjet_a", 1000, 30), event("ncclDevKernel_AllGather", 1020, 30), event("nvjet_a", 1150, 20)]
    late = [event("nvjet_b", 1290, 50), event("aten::mm", 1000, 100, "cpu_op")]  # the CPU's time is not a GPU's
    shares = read_trace(write(tmp_path, *marks, *kernels, *late))
    assert (shares.steps, shares.total, shares.collectives) == (2, 200, 30)
    assert shares.spent == {"attention": 0, "matmul": 40, "elementwise": 0, "collectives": 20, "idle": 140}
    assert shares.operations["matmul", "nvjet_a"] == (30, 1)
    table = time_table({3: shares}).splitlines()
    assert table[0].startswith("| rank | step, ms | attention, %") and table[2] == (
        "| 3 | 0.1 | 0.0 | 20.0 | 0.0 | 10.0 | 70.0 | 5.0 |"
    )
    assert "| `ncclDevKernel_AllGather` | collectives | 10.0 | 0.5 |" in table


@pytest.mark.parametrize("attention", ["aten::scaled_dot_product_attention", "codegen::blocked_attention_backward"])
def test_on_a_cpu_the_innermost_operation_counts(attention: str, tmp_path: Path) -> None:
    """What only calls others is idle; what attention calls is attention; a compiled graph's rest is elementwise."""
    operations = [
        event("CompiledFunctionBackward", 0, 60, "cpu_op"),
        event("## Call CompiledFxGraph abc ##", 10, 40, "cpu_op"),
        event("aten::addmm", 20, 10, "cpu_op"),
        event(attention, 60, 20, "cpu_op"),
        event("aten::bmm", 65, 5, "cpu_op"),
        event("c10d::allreduce_", 80, 2, "cpu_op"),
        event("gloo:all_reduce", 81, 9, "user_annotation"),
        event("aten::add_", 85, 2, "cpu_op"),
    ]
    shares = read_trace(write(tmp_path, event(STEP, 0, 100, "user_annotation"), *operations))
    assert shares.spent == {"attention": 20, "matmul": 10, "elementwise": 32, "collectives": 8, "idle": 30}
    assert shares.collectives == 10


def test_a_trace_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no event 'optimizer step'"):
        read_trace(write(tmp_path, event("nvjet_a", 0, 5)))
