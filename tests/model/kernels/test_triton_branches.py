"""The Triton form of the block's middle: its values by Triton's interpreter, its code by compiling it for GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.compose import compose_settings
from conf.errors import ConfigError
from model.kernels import select_kernels

triton = pytest.importorskip("triton", reason="torch for GPUs brings it; requirements.txt names it for a CPU")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from model.kernels import triton_branches as module  # noqa: E402
from tests.model.kernels import interpreted  # noqa: E402

ROOT = Path(__file__).parents[3]
CAPABILITIES = (80, 90, 100)
SIZES = ("350m", "2b", "6b")  # 16B's heads are 6B's
CODE = "*bf16"  # a GPU's activations


def test_values_and_gradients_are_the_reference_s() -> None:
    """In a process of its own: whether kernels are interpreted is decided when they are imported."""
    command = [sys.executable, "-m", "tests.model.kernels.interpreted"]
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and done.stdout.endswith("all equal\n"), done.stderr[-3000:]


def compiled(kernel: Any, capability: int, types: dict[str, str], constants: dict[str, Any]) -> Any:
    """`kernel` for a GPU that need not be here; pointers and strides are multiples of 16, as in every shipped size."""
    constants = {"ROWS": module.ROWS, "BLOCK": module.BLOCK, **constants}
    names = kernel.arg_names
    aligned = [name for name in names if types.get(name, "").startswith("*") or name == "d" or name.endswith("stride")]
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def registers_and_spills(code: Any, capability: int, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes spilt to memory, by ptxas."""
    (folder / "kernel.ptx").write_text(code.asm["ptx"])
    name = f"sm_{capability}" + ("a" if capability >= 90 else "")
    command = [
        get_ptxas(capability).path,
        "-v",
        f"--gpu-name={name}",
        folder / "kernel.ptx",
        "-o",
        folder / "kernel.cubin",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spills = (re.search(text, said) for text in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    assert registers and spills, said
    return int(registers[1]), int(spills[1])


def refuse_slow_code(code: Any, capability: int, folder: Path) -> None:
    """Every access of memory is 16 bytes a thread, nothing is spilt, registers allow 1536 threads at a time."""
    accesses = re.findall(r"(?:ld|st)\.global(\S*)", code.asm["ptx"])
    registers, spills = registers_and_spills(code, capability, folder)
    assert accesses and all(access.endswith((".v4.b32", ".v2.b64")) for access in accesses), accesses
    assert spills == 0 and registers <= 40 and code.metadata.shared <= 8192, (registers, code.metadata.shared)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("size", SIZES)
def test_rotation_is_good_code(size: str, capability: int, tmp_path: Path) -> None:
    model = compose_settings([f"model={size}"]).model
    pointers = ("q_from", "k_from", "v_from", "q_to", "k_to", "v_to")
    types = {**dict.fromkeys(pointers, CODE), "table": "*fp32", "sign": "fp32"}
    shape = {"HEAD_DIM": model.head_dim, "ROTARY_DIM": model.rotary_dim, "COPY_V": True}
    refuse_slow_code(compiled(module.rotate_kernel, capability, types, shape), capability, tmp_path)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_bias_and_gelu_are_good_code(direction: str, capability: int, tmp_path: Path) -> None:
    kernel = getattr(module, f"merge_{direction}_kernel")
    pointers = ("attended", "mlp", "bias", "out", "grad_out", "grad_mlp")
    types = {name: CODE for name in pointers if name in kernel.arg_names}
    types |= {"grad_bias": "*fp32"} if direction == "backward" else {}
    refuse_slow_code(compiled(kernel, capability, types, {}), capability, tmp_path)


def test_it_is_chosen_by_kernels_branches() -> None:
    kernels = select_kernels(compose_settings(["kernels=eager", "kernels.branches=triton"]).kernels)
    assert kernels.branches is module.triton_branches and kernels.describe()["branches"] == "triton_branches"


def test_a_cpu_is_refused_in_one_line() -> None:
    config = compose_settings(["kernels.branches=triton"]).kernels
    with pytest.raises(
        ConfigError, match=r"kernels\.branches=triton needs a GPU, not a cpu; use kernels\.branches=torch"
    ):
        select_kernels(config, torch.device("cpu"))


def test_a_plan_s_meta_tensors_take_the_reference() -> None:
    projected = torch.empty(2, 5, 7 * 16, device="meta")
    table = torch.empty(2, 5, 2, device="meta")
    out = module.triton_branches(projected, torch.empty(64, device="meta"), table, 2, lambda q, k, v, mask: q)
    assert out.shape == (2, 5, 80)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnGPU:
    """What the interpreter checks, by the compiled kernels: every shipped width, and bf16."""

    @pytest.mark.parametrize("size", [*SIZES, "16b"])
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
