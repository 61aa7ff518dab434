"""What a run on this machine is given: the GPUs that were asked for, cores, allocator, queues."""

import base64
import json
import os
from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.schema import LayoutConfig
from launch.local import CPU_ENVIRONMENT, environment, train_command, visible_gpus

LAYOUT = compose_settings([]).layout


def layout(*overrides: str) -> LayoutConfig:
    return compose_settings(list(overrides)).layout


def world_of(command: list[str]) -> dict[str, list[int | str]]:
    encoded = next(word for word in command if word.startswith("--world_info=")).removeprefix("--world_info=")
    world: dict[str, list[int | str]] = json.loads(base64.urlsafe_b64decode(encoded))
    return world


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("4, 5", ["4", "5"]),
        ("2,-1,3", ["2"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
    ],
)
def test_visible_gpus_are_read_as_cuda_reads_them(
    visible: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == ids


def test_nvidia_smi_is_asked_where_the_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA A100 (UUID: GPU-b)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]


def test_the_launcher_keeps_the_gpus_that_the_user_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert world_of(train_command([], {"localhost": 2})) == {"localhost": ["4", "5"]}
    assert world_of(train_command([], {"n1": 2, "n2": 2})) == {"n1": [0, 1], "n2": [0, 1]}  # known there only
    assert world_of(train_command([], {"n1": 2})) == {"n1": [0, 1]}, "one host of a hostfile"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert world_of(train_command([], {"localhost": 2})) == {"localhost": [0, 1]}  # preflight names what is missing
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert world_of(train_command([], {"localhost": 2})) == {"localhost": [0, 1]}


def test_cores_are_shared_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for visible in ("", "0,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert int(environment(1, LAYOUT)["OMP_NUM_THREADS"]) == len(os.sched_getaffinity(0))
        assert environment(1000, LAYOUT)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(2, LAYOUT)["OMP_NUM_THREADS"] == "7"


def test_only_without_gpus_deepspeed_is_told_to_use_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CPU_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment(2, LAYOUT)["DS_ACCELERATOR"] == "cpu"
    assert environment(2, LAYOUT)["MALLOC_MMAP_MAX_"] == "0"
    assert environment(2, LAYOUT)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert not environment(1, LAYOUT).keys() & CPU_ENVIRONMENT.keys()


def test_one_queue_to_the_gpu_where_tensor_parallelism_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    tensor = environment(2, layout("layout.tensor_parallel_size=2"))
    assert tensor["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert tensor["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    for other in (layout(), layout("layout.tensor_parallel_size=2", "layout.zero_stage=3")):
        assert "CUDA_DEVICE_MAX_CONNECTIONS" not in environment(2, other)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    assert environment(2, layout("layout.tensor_parallel_size=2"))["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"
