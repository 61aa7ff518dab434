"""Nodes with GPUs that this machine does not have: their files and what torch says of them are made up."""

import os
import re
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from train import gpu_node

ROOT = Path(__file__).parents[2]
OLD = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: gcc 12.3\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/proc/driver/nvidia of a node with two GPUs, which torch does not see."""
    for address in ("0000:17:00.0", "0000:65:00.0"):
        (tmp_path / "gpus" / address).mkdir(parents=True)
    for name in ("DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return tmp_path


def test_a_torch_for_cpus_is_named_on_a_node_with_gpus(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    said = gpu_node.cuda_problem(proc)
    assert said and said.startswith("2 GPUs, and torch") and "built for CPUs" in said


@pytest.mark.parametrize(("text", "driver", "old"), [(OLD, "535.183.01", True), (OPEN, "580.65.06", False)])
def test_a_driver_that_is_too_old_is_named(proc: Path, text: str, driver: str, old: bool) -> None:
    (proc / "version").write_text(text)
    assert gpu_node._driver_version(proc) == driver
    said = gpu_node.cuda_problem(proc)
    assert said and ("which needs 580 or newer" in said) is old
    assert (f"driver {driver} is too old" in said) is old and "\n" not in said


@pytest.mark.parametrize("wish", [{"DS_ACCELERATOR": "cpu"}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_who_asks_for_the_cpu_gets_it(proc: Path, wish: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in wish.items():
        monkeypatch.setenv(name, value)
    assert gpu_node.cuda_problem(proc) is None


def test_gpus_that_torch_sees_and_no_gpus_are_no_problem(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_node.cuda_problem(proc / "elsewhere") is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu_node.cuda_problem(proc) is None


def test_the_proved_torch_is_the_required_one() -> None:
    found = re.search(r"^torch==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert found and found[1] == gpu_node.PROVED_TORCH


@pytest.mark.parametrize(
    ("version", "refused", "warned"),
    [("2.13.0+cpu", False, False), ("2.9.1", False, True), ("2.14.0a0+git1", False, True), ("2.8.0+cu128", True, True)],
)
def test_other_torches_are_warned_about_and_old_ones_refused(
    version: str, refused: bool, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert bool(gpu_node.torch_problem()) is refused
    assert bool(gpu_node.torch_warning()) is warned


def test_a_missing_compiler_or_header_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler" in (gpu_node.compiler_problem() or "")
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in (gpu_node.compiler_problem() or "")
    (tmp_path / "Python.h").touch()
    assert gpu_node.compiler_problem() is None


def test_a_process_is_pinned_to_the_cores_near_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: SimpleNamespace(pci_domain_id=0, pci_bus_id=0x65, pci_device_id=0),
    )
    near = tmp_path / "0000:65:00.0/local_cpulist"
    try:
        assert gpu_node.bind_to_gpu(torch.device("cuda", 0), tmp_path) == set()
        assert os.sched_getaffinity(0) == before
        near.parent.mkdir()
        near.write_text("1000-1003\n")  # cores that this process may not use
        assert gpu_node.bind_to_gpu(torch.device("cuda", 0), tmp_path) == set()
        near.write_text(f"{core},1000-1003\n")
        assert gpu_node.bind_to_gpu(torch.device("cuda", 0), tmp_path) == {core}
        assert os.sched_getaffinity(0) == {core}
    finally:
        os.sched_setaffinity(0, before)
    assert gpu_node.bind_to_gpu(torch.device("cpu")) == set()
