"""What the devices can do: the precision that `auto` stands for, and the peak that MFU is measured against."""

import resource
import time

import torch

from conf.choices import Precision
from conf.errors import ConfigError

# Dense peaks in TFLOP/s for bf16 and fp16, from NVIDIA's data sheets (without sparsity). Longest name first.
DATA_SHEETS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "V100": 125.0,
}


def resolve_precision(asked: Precision, device: torch.device) -> Precision:
    """What `asked` means on `device`. Errors: `ConfigError` where the device cannot do it."""
    if asked is Precision.auto:
        return Precision.bf16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else Precision.fp32
    if asked is Precision.fp16 and device.type == "cpu":
        raise ConfigError("precision=fp16 does not work on a CPU; use auto, fp32 or bf16")
    return asked


def dtype_of(precision: Precision) -> torch.dtype:
    """torch's name of a resolved precision."""
    return {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}[precision]


def slow_products(device: torch.device, precision: Precision) -> bool:
    """Whether bf16 was asked of a CPU whose instructions do not have it."""
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cpu" and precision is Precision.bf16 and not native


def peak_tflops(device: torch.device, precision: Precision) -> tuple[float, str]:
    """Dense peak of one device in TFLOP/s and where the figure comes from: its data sheet, or a product timed here."""
    if device.type == "cuda" and precision is not Precision.fp32:
        name = torch.cuda.get_device_name(device)
        for known, peak in DATA_SHEETS.items():
            if known in name:
                return peak, f"data sheet of {known}"
    return measured_tflops(device, precision), "largest of 5 square products timed at start-up"


def measured_tflops(device: torch.device, precision: Precision, small: bool = False) -> float:
    """TFLOP/s of the best of 5 square products; small ones take about a millisecond."""
    if device.type == "cpu" and small:
        precision = Precision.fp32  # bf16 may be a hundred times slower there
    size = (2048 if small else 4096) if device.type == "cuda" else (256 if small else 512)
    matrix = torch.randn(size, size, device=device, dtype=dtype_of(precision))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has used: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
