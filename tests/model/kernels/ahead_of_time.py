"""Triton kernels compiled for GPUs that need not be here, and what their code must be."""

import re
import subprocess
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

CAPABILITIES = (80, 90, 100)
SIZES = ("350m", "2b", "6b", "16b")


def ahead_of_time(
    kernel: Any,
    capability: int,
    types: dict[str, str],
    constants: dict[str, Any],
    lengths: tuple[str, ...] = (),
    **options: int,
) -> Any:
    """`kernel` for a GPU that need not be here; pointers and strides are multiples of 16, as in every shipped size."""
    names = kernel.arg_names
    aligned = [
        name
        for name in names
        if types.get(name, "").startswith("*") or name in ("d", *lengths) or name.endswith("stride")
    ]
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


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


def refuse_slow_code(
    code: Any, capability: int, folder: Path, scalars: int = 0, most_registers: int = 40, most_shared: int = 8192
) -> None:
    """Every access of memory is 16 bytes a thread but for `scalars`, nothing is spilt, and the registers are few: 40
    allow 1536 threads at a time, 64 allow 1024."""
    accesses = re.findall(r"(?:ld|st)\.global(\S*)", code.asm["ptx"])
    wide = [access for access in accesses if access.endswith((".v4.b32", ".v2.b64"))]
    registers, spills = registers_and_spills(code, capability, folder)
    assert wide and len(accesses) - len(wide) == scalars, accesses
    found = {"spilt bytes": spills, "registers": registers, "shared bytes": code.metadata.shared}
    assert spills == 0 and registers <= most_registers and code.metadata.shared <= most_shared, found
