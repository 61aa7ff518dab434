"""LayerNorm in Triton: its values by Triton's interpreter and on a GPU, its code by compiling it for GPUs."""

from pathlib import Path

import pytest
import torch

from conf.compose import compose_settings
from model.kernels import select_kernels

pytest.importorskip("triton", reason="torch for GPUs brings it; requirements.txt names it for a CPU")
from model.kernels import triton_norm as module
from tests.model.kernels import interpreted, interpreted_norm
from tests.model.kernels.ahead_of_time import CAPABILITIES, SIZES, ahead_of_time, refuse_slow_code


def test_values_and_gradients_are_torch_s() -> None:
    interpreted.run("tests.model.kernels.interpreted_norm")


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_it_is_good_code(direction: str, size: str, capability: int, tmp_path: Path) -> None:
    """A row's mean and deviation are the two scalars."""
    kernel = getattr(module, f"norm_{direction}_kernel")
    block, warps = module.block_and_warps(compose_settings([f"model={size}"]).model.n_embd)
    half, full = ("x", "weight", "bias", "y", "grad_y", "grad_x"), ("means", "deviations", "grad_weight", "grad_bias")
    types = {**dict.fromkeys(half, "*bf16"), **dict.fromkeys(full, "*fp32"), "epsilon": "fp32"}
    types = {name: kind for name, kind in types.items() if name in kernel.arg_names}
    code = ahead_of_time(kernel, capability, types, {"BLOCK": block}, num_warps=warps, maxnreg=64)
    refuse_slow_code(code, capability, tmp_path, scalars=2, most_registers=64, most_shared=4 * block)


def test_auto_is_triton_on_a_gpu_and_torch_elsewhere() -> None:
    config = compose_settings(["kernels=auto"]).kernels
    gpu, cpu = (select_kernels(config, torch.device(kind)) for kind in ("cuda", "cpu"))
    assert gpu.norm is module.triton_norm and cpu.norm is None
    assert gpu.describe()["branches"] == "triton_branches" and cpu.describe()["branches"] == "reference_branches"
    assert cpu.compile_blocks and not gpu.compile_blocks


def test_a_plan_s_meta_tensors_pass_both_ways() -> None:
    x, vector = torch.empty(2, 3, 16, device="meta", requires_grad=True), torch.empty(16, device="meta")
    y = module.triton_norm(x, vector, vector, 1e-5)
    y.sum().backward()
    assert y.shape == x.shape and x.grad.shape == x.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnGPU:
    """What the interpreter checks, by the compiled kernels: every shipped width, and bf16."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]
    )
    def test_values_and_gradients_at_every_width(self, size: str, dtype: torch.dtype, tolerance: float) -> None:
        width = compose_settings([f"model={size}"]).model.n_embd
        for rows in (1, 5001):
            interpreted_norm.check_against_fp64((rows, width), dtype, tolerance, "cuda")

    def test_odd_shapes_and_strides(self) -> None:
        for shape in interpreted_norm.SHAPES:
            interpreted_norm.check_against_fp64(shape, torch.float32, 1e-5, "cuda")
        interpreted_norm.check_not_contiguous("cuda")
