"""The cast to fp8 in Triton: its layout and scale by Triton's interpreter, its code by compiling it for GPUs that have
fp8. test_fp8.py compares its values with the CPU's on a GPU."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="torch for GPUs brings it; requirements.txt names it for a CPU")
from model.kernels import triton_fp8 as module
from tests.model.kernels import interpreted
from tests.model.kernels.ahead_of_time import ahead_of_time, registers_and_spills


def check_layout() -> None:
    """In fp16, which the interpreter rounds to as a GPU does."""
    for shape in ((1, 1), (5, 300), (129, 128), (300, 40)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) * 1e5
        with interpreted.poisoned():
            rows, columns, inverse = module.triton_cast(x, torch.float16, rows=True, columns=True)
        scaled = (x * 2.0 ** torch.floor(torch.log2(65504.0 / x.abs().max()))).half()
        assert rows.equal(scaled) and columns.equal(scaled.t()), shape
        assert 32752 < rows.abs().max() <= 65504 and (rows.float() * inverse - x).abs().max() < 2**-10 * x.abs().max()
    assert module.triton_cast(x, torch.float16, rows=False, columns=True)[0].numel() == 0


def test_rows_columns_and_scale() -> None:
    interpreted.run("tests.model.kernels.test_triton_fp8")


@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("kind", ["*fp8e4nv", "*fp8e5"])
def test_it_is_good_code(kind: str, capability: int, tmp_path: Path) -> None:
    types = {"x": "*bf16", "largest": "*bf16", "rows_to": kind, "columns_to": kind, "inverse": "*fp32", "limit": "fp32"}
    constants = {"ROWS": True, "COLUMNS": True, "TILE": module.TILE}
    lengths = ("rows", "columns")
    code = ahead_of_time(module.cast_kernel, capability, types, constants, lengths, num_warps=module.WARPS)
    accesses = re.findall(r"(?:ld|st)\.global(\S*)", code.asm["ptx"])
    narrow = [access for access in accesses if not access.endswith((".v4.b32", ".v2.b64"))]
    registers, spills = registers_and_spills(code, capability, tmp_path)
    assert len(narrow) == 2, accesses  # the largest value and the scale
    assert spills == 0 and registers <= 128 and code.metadata.shared <= 2**15, (registers, spills, code.metadata.shared)


if __name__ == "__main__":
    check_layout()
    print("all equal")
