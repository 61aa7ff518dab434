"""The golden run on one GPU, through NCCL: every form of the kernels, every ZeRO stage, and bf16."""

from typing import Any

import pytest
import torch

from tests.parity.cases import train
from tests.parity.test_layouts import refuse_far_from_golden
from tests.worlds import Worlds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: python -m tests.gpu"),
]
SETTINGS: dict[str, list[str]] = {
    "reference": ["layout.zero_stage=0"],
    "eager": ["kernels=eager"],
    "auto": ["kernels=auto"],
    "triton": ["kernels=eager", "kernels.branches=triton"],
    "triton, compiled": ["kernels=auto", "kernels.branches=triton"],
    "zero2": ["kernels=auto", "layout.zero_stage=2"],
    "zero3": ["kernels=auto", "layout.zero_stage=3"],
    "offload": ["kernels=eager", "layout.zero_stage=2", "layout.offload=optimizer"],
    "recompute": ["kernels=auto", "layout.recompute=full"],
    "selective recompute": ["kernels=auto", "layout.recompute=selective"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_fp32_trains_the_golden_run(name: str, worlds: Worlds, expected: dict[str, Any]) -> None:
    """Weights as in test_compiled.py: a GPU adds in another order than the CPU that the golden run is from."""
    (result,) = worlds(1).run(train, SETTINGS[name])
    for key in ("loss", "gradient_norm", "evaluation"):
        assert result[key] == pytest.approx(expected[key], rel=1e-5), key
    for key, value in result["weights"].items():
        torch.testing.assert_close(
            value, expected["weights"][key], rtol=1e-5, atol=2e-5, msg=lambda m, n=key: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_the_golden_run(
    precision: str, name: str, worlds: Worlds, expected: dict[str, Any]
) -> None:
    """Bounds as in test_layouts.py."""
    chosen = [word.replace("zero_stage=0", "zero_stage=1") for word in SETTINGS[name]]
    scale = ["layout.loss_scale.initial_power=8"] if precision == "fp16" else []
    (result,) = worlds(1).run(train, [*chosen, f"layout.precision={precision}", *scale])
    refuse_far_from_golden([result], expected)
