"""Where a stage's time goes."""

import pytest
import torch

from train.hardware import energy_joules


def test_a_cpu_counts_no_energy() -> None:
    assert energy_joules(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_counts_its_energy() -> None:
    before = energy_joules(torch.device("cuda"))
    matrix = torch.randn(8192, 8192, device="cuda")
    for _ in range(20):
        matrix = matrix @ matrix
    torch.cuda.synchronize()
    after = energy_joules(torch.device("cuda"))
    assert before is not None and after is not None and after > before
