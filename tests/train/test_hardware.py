"""What is told of devices: their peak, and the precision that they compute in; GPUs are made up."""

import pytest
import torch

from conf.choices import Precision
from conf.errors import ConfigError
from train import hardware
from train.hardware import emulates_bf16, measured_tflops, peak_memory_bytes, peak_tflops, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H800", 989.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA H200 NVL", 835.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA H20", 148.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("Tesla V100-SXM2-32GB", 125.0),
    ],
)
def test_known_gpus_have_the_peak_of_their_data_sheet(name: str, peak: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found, source = peak_tflops(GPU, Precision.bf16)
    assert found == peak and source.startswith("data sheet of ")


@pytest.mark.parametrize("name", ["NVIDIA RTX A1000 Laptop GPU", "Quadro GV100", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"])
def test_the_peak_of_a_part_or_of_a_similar_name_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(hardware, "measured_tflops", lambda device, precision: 7.0)
    assert peak_tflops(GPU, Precision.bf16)[0] == 7.0


def test_the_peak_of_other_devices_is_measured() -> None:
    peak, source = peak_tflops(CPU, Precision.fp32)
    assert peak > 0 and "timed at start-up" in source
    assert measured_tflops(CPU, Precision.bf16, small=True) > 0


@pytest.mark.parametrize(("native", "precision"), [(True, Precision.bf16), (False, Precision.fp32)])
def test_auto_is_bf16_only_where_the_gpu_computes_in_it(
    native: bool, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch says that a V100 supports bf16, unless it is told not to count emulation."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert resolve_precision(Precision.auto, GPU) is precision
    assert emulates_bf16(GPU, Precision.bf16) is not native
    assert not emulates_bf16(GPU, Precision.fp32)


def test_a_cpu_is_fp32_unless_it_is_asked_for_more() -> None:
    assert resolve_precision(Precision.auto, CPU) is Precision.fp32
    assert resolve_precision(Precision.bf16, CPU) is Precision.bf16
    with pytest.raises(ConfigError, match="precision=fp16 does not work on a CPU"):
        resolve_precision(Precision.fp16, CPU)


@pytest.mark.parametrize(("capability", "supported"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_fp8_needs_products_of_its_own(
    capability: tuple[int, int], supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    if supported:
        assert resolve_precision(Precision.fp8, GPU) is Precision.fp8
    else:
        with pytest.raises(ConfigError, match="precision=fp8 needs an H100 or newer, and this is an NVIDIA A100; use"):
            resolve_precision(Precision.fp8, GPU)
    assert resolve_precision(Precision.fp8, CPU) is Precision.fp8


def test_peak_memory_of_a_process_is_at_least_what_it_holds() -> None:
    held = torch.ones(64 * 2**20 // 4)
    assert peak_memory_bytes(CPU) > held.nbytes
