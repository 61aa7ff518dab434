"""Properties of the devices: the precision that `auto` resolves to, peak TFLOP/s for MFU, memory in use."""

import ctypes
import re
import resource
import time

import torch

from conf.choices import Precision
from conf.errors import ConfigError
from conf.this_machine import check_precision
from model.dtypes import DTYPES

# Dense peaks in TFLOP/s for bf16 and fp16, by which fp8 is measured too, from NVIDIA's data sheets (half of those
# with sparsity). The first name that is a word of the device's counts, so a variant stands before its family.
DATA_SHEETS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800 PCIe": 756.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "V100": 125.0,
}
FIRST_FP8 = (8, 9)  # compute capability


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """`precision`, with `auto` resolved for `device`. Errors: `ConfigError` where the device does not support it."""
    if precision is Precision.auto:
        return Precision.bf16 if device.type == "cuda" and _has_bf16_products() else Precision.fp32
    check_precision(precision, device.type)
    if precision is Precision.fp8 and device.type == "cuda" and torch.cuda.get_device_capability(device) < FIRST_FP8:
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"precision=fp8 needs an H100 or newer, and this is an {name}; use auto or bf16")
    return precision


def _has_bf16_products() -> bool:
    """Whether the GPU computes in bf16 itself, as those from A100 on do; torch would also count a V100's emulation."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def emulates_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether bf16 products are emulated: on a CPU or GPU without bf16 instructions."""
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported() if device.type == "cpu" else _has_bf16_products()
    return precision in (Precision.bf16, Precision.fp8) and not native


def peak_tflops(device: torch.device, precision: Precision) -> tuple[float, str]:
    """(dense peak of one device in TFLOP/s, its source: the data sheet, or matrix products timed here)."""
    if device.type == "cuda" and precision is not Precision.fp32:
        name = torch.cuda.get_device_name(device)
        known = next((known for known in DATA_SHEETS if re.search(rf"\b{known}\b", name)), None)
        if known and "MIG" not in name:  # a slice has a part of the card's
            return DATA_SHEETS[known], f"data sheet of {known}"
    return measured_tflops(device, precision), "largest of 5 square products timed at start-up"


def measured_tflops(device: torch.device, precision: Precision, small: bool = False) -> float:
    """TFLOP/s of the best of 5 square matrix products; small ones take about a millisecond."""
    if device.type == "cpu" and small:
        precision = Precision.fp32  # bf16 may be a hundred times slower there
    size = (2048 if small else 4096) if device.type == "cuda" else (256 if small else 512)
    matrix = torch.randn(size, size, device=device, dtype=DTYPES[precision])
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def energy_joules(device: torch.device) -> float | None:
    """Energy that the GPU has used since its driver was loaded, as NVML counts it; None where nothing counts it."""
    if device.type != "cuda":
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        failed = (
            nvml.nvmlInit_v2()
            or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle))
            or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        )
    except (OSError, AttributeError):
        return None
    return None if failed else millijoules.value / 1000
