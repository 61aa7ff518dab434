"""The Triton form of the block's middle: its values by Triton's interpreter, its code by compiling it for GPUs."""

from pathlib import Path

import pytest
import torch

from conf.compose import compose_settings
from conf.errors import ConfigError
from model.kernels import select_kernels

pytest.importorskip("triton", reason="torch for GPUs brings it; requirements.txt names it for a CPU")
from model.kernels import triton_branches as module
from tests.model.kernels import interpreted
from tests.model.kernels.ahead_of_time import CAPABILITIES, SIZES, ahead_of_time, refuse_slow_code

CODE = "*bf16"  # a GPU's activations
BLOCKS = {"ROWS": module.ROWS, "BLOCK": module.BLOCK}


def test_values_and_gradients_are_the_reference_s() -> None:
    interpreted.run("tests.model.kernels.interpreted")


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("size", SIZES[:3])  # 16B's heads are 6B's
def test_rotation_is_good_code(size: str, capability: int, tmp_path: Path) -> None:
    model = compose_settings([f"model={size}"]).model
    pointers = ("q_from", "k_from", "v_from", "q_to", "k_to", "v_to")
    types = {**dict.fromkeys(pointers, CODE), "table": "*fp32", "sign": "fp32"}
    shape = {"HEAD_DIM": model.head_dim, "ROTARY_DIM": model.rotary_dim, "COPY_V": True}
    refuse_slow_code(ahead_of_time(module.rotate_kernel, capability, types, {**BLOCKS, **shape}), capability, tmp_path)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_bias_and_gelu_are_good_code(direction: str, capability: int, tmp_path: Path) -> None:
    kernel = getattr(module, f"merge_{direction}_kernel")
    pointers = ("attended", "mlp", "bias", "out", "grad_out", "grad_mlp")
    types = {name: CODE for name in pointers if name in kernel.arg_names}
    types |= {"grad_bias": "*fp32"} if direction == "backward" else {}
    refuse_slow_code(ahead_of_time(kernel, capability, types, BLOCKS), capability, tmp_path)


def test_it_is_chosen_by_kernels_branches() -> None:
    kernels = select_kernels(
        compose_settings(["kernels=eager", "kernels.branches=triton"]).kernels, torch.device("cuda")
    )
    assert kernels.branches is module.triton_branches and kernels.describe()["branches"] == "triton_branches"


def test_a_cpu_is_refused_in_one_line() -> None:
    config = compose_settings(["kernels.branches=triton"]).kernels
    with pytest.raises(
        ConfigError, match=r"kernels\.branches=triton needs a GPU, not a cpu; use kernels\.branches=torch"
    ):
        select_kernels(config, torch.device("cpu"))


def test_a_plan_s_meta_tensors_pass_both_ways() -> None:
    projected = torch.empty(2, 5, 7 * 16, device="meta", requires_grad=True)
    table = torch.empty(2, 5, 2, device="meta")
    out = module.triton_branches(projected, torch.empty(64, device="meta"), table, 2, lambda q, k, v, mask: q)
    out.sum().backward()
    assert out.shape == (2, 5, 80) and projected.grad.shape == projected.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnGPU:
    """What the interpreter checks, by the compiled kernels: every shipped width, and bf16."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float16, 4e-3), (torch.bfloat16, 2e-2)]
    )
    def test_values_and_gradients_at_every_width(self, size: str, dtype: torch.dtype, tolerance: float) -> None:
        model = compose_settings([f"model={size}"]).model
        for batch, seq in ((1, 1), (2, 257)):
            shape = (batch, seq, model.n_head, model.head_dim, model.rotary_dim)
            interpreted.check_against_fp64(shape, dtype, tolerance, "cuda")

    def test_odd_shapes(self) -> None:
        for shape in interpreted.SHAPES:
            interpreted.check_against_fp64(shape, torch.float32, 2e-5, "cuda")
            interpreted.check_against_fp64(shape, torch.bfloat16, 2e-2, "cuda")

    def test_strides_and_unwritten_values(self) -> None:
        interpreted.check_not_contiguous("cuda")
        interpreted.check_every_value_is_written("cuda")
