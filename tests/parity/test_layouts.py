"""Every layout is the same training run: Hugging Face's model with torch's AdamW and clipping, in one process."""

from typing import Any

import pytest
import torch

from tests.parity.cases import RATE, STEPS, train
from tests.worlds import Worlds

TP2, PP2 = "layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2"
TP4, PP4 = "layout.tensor_parallel_size=4", "layout.pipeline_parallel_size=4"
SP = "layout.sequence_parallel=true"
ZERO0, ZERO1, ZERO2, ZERO3 = (f"layout.zero_stage={stage}" for stage in range(4))

LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "single": (1, [ZERO0]),
    "single zero1": (1, [ZERO1]),
    "recompute": (1, [ZERO0, "layout.recompute=full"]),
    "selective recompute": (1, [ZERO0, "layout.recompute=selective"]),
    "no accumulation": (1, [ZERO0, "layout.micro_batch_size=8"]),
    "tp2": (2, [TP2, ZERO0]),
    "tp2 without overlap": (2, [TP2, ZERO0, "layout.tensor_parallel_overlap=false"]),
    "tp2 sp": (2, [TP2, SP, ZERO0]),
    "tp2 sp without overlap": (2, [TP2, SP, ZERO0, "layout.tensor_parallel_overlap=false"]),
    "tp2 sp regather": (2, [TP2, SP, ZERO0, "layout.regather_sequence=true"]),
    "tp2 sp recompute": (2, [TP2, SP, ZERO1, "layout.recompute=full"]),
    "tp2 sp selective recompute": (2, [TP2, SP, ZERO1, "layout.recompute=selective"]),
    "pp2": (2, [PP2, ZERO0]),
    "pp2 recompute": (2, [PP2, ZERO1, "layout.recompute=full"]),
    "dp2 zero0": (2, [ZERO0]),
    "dp2 zero1": (2, [ZERO1]),
    "dp2 zero2": (2, [ZERO2]),
    "dp2 zero3": (2, [ZERO3]),
    "dp2 zero3 recompute": (2, [ZERO3, "layout.recompute=full"]),
    "dp2 zero1 offload": (2, [ZERO1, "layout.offload=optimizer"]),
    "dp2 zero2 offload": (2, [ZERO2, "layout.offload=optimizer"]),
    "dp2 zero3 offload": (2, [ZERO3, "layout.offload=parameters"]),
    "dp2 no accumulation": (2, [ZERO1, "layout.micro_batch_size=4"]),
    "dp4 zero3 within pairs": (4, [ZERO3, "layout.zero.hpz_partition_size=2"]),
    "tp4": (4, [TP4, ZERO0]),
    "tp4 sp": (4, [TP4, SP, ZERO1]),
    "pp4 uneven": (4, [PP4, ZERO0]),
    "pp4 uneven zero1": (4, [PP4, ZERO1]),
    "tp2 pp2": (4, [TP2, PP2, ZERO0]),
    "tp2 sp pp2 zero1": (4, [TP2, PP2, SP, ZERO1]),
    "tp2 dp2 zero1": (4, [TP2, ZERO1]),
    "tp2 sp dp2 zero2": (4, [TP2, SP, ZERO2]),
    "tp2 dp2 zero3": (4, [TP2, ZERO3]),
    "pp2 dp2 zero1": (4, [PP2, ZERO1]),
    "pp2 dp2 zero0": (4, [PP2, ZERO0]),
    "tp2 pp2 dp2 sp": (8, [TP2, PP2, SP, ZERO1]),
    "tp2 pp2 dp2 zero0": (8, [TP2, PP2, ZERO0]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_trains_the_golden_run(layout: str, worlds: Worlds, expected: dict[str, Any]) -> None:
    size, overrides = LAYOUTS[layout]
    results = worlds(size).run(train, overrides)
    assert min(expected["gradient_norm"]) > 0.1, "clipping must be active"
    weights: dict[str, torch.Tensor] = {}
    for rank, result in enumerate(results):
        for key in ("loss", "gradient_norm", "evaluation"):
            assert result[key] == pytest.approx(expected[key], rel=1e-5), f"{key} of rank {rank}"
        torch.testing.assert_close(result["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
        assert result["continued"] == {row: expected["continued"][row] for row in result["continued"]}
        weights |= result["weights"]
    assert weights.keys() == expected["weights"].keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected["weights"][name], rtol=1e-5, atol=2e-6, msg=lambda m: f"{name}: {m}")


HALF, IN_BF16 = ["layout.precision=bf16", ZERO1], "layout.reduce_dtype=bf16"
HALF_LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "single": (1, HALF),
    "tp2 sp": (2, [*HALF, TP2, SP]),
    "pp2": (2, [*HALF, PP2]),
    "dp2": (2, HALF),
    "dp2 zero2": (2, [*HALF, ZERO2]),
    "dp2 zero3": (2, [*HALF, ZERO3]),
    **{f"dp2 zero{stage} reduced in bf16": (2, [*HALF, f"layout.zero_stage={stage}", IN_BF16]) for stage in (1, 2, 3)},
    "tp2 pp2": (4, [*HALF, TP2, PP2]),
}


FP8 = ["layout.precision=fp8"]
FP8_LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "single compiled": (1, [*FP8, ZERO1, "kernels.compile=true"]),
    "tp2 sp": (2, [*FP8, ZERO1, TP2, SP]),
    "tp2 without overlap": (
        2,
        [*FP8, ZERO1, TP2, "layout.tensor_parallel_overlap=false", "layout.keep_fp8_weights=false"],
    ),
    "dp2 zero3": (2, [*FP8, ZERO3]),
}


def refuse_far_from_golden(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """Loss and norm of a run whose weights and activations have few digits; weights are fp32 masters that moved by at
    most STEPS * RATE each, in directions that noise can turn where a gradient is near zero."""
    for result in results:
        assert result["loss"] == pytest.approx(expected["loss"], rel=0.01)
        assert result["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=0.04)
        assert result["evaluation"] == pytest.approx(expected["evaluation"], rel=0.01)
        for name, value in result["weights"].items():
            difference = (value - expected["weights"][name]).abs()
            assert difference.max() <= 2 * STEPS * RATE * 1.05, name
            assert difference.mean() <= 0.2 * STEPS * RATE, name


@pytest.mark.parametrize("layout", HALF_LAYOUTS)
def test_bf16_layout_stays_near_the_golden_run(layout: str, worlds: Worlds, expected: dict[str, Any]) -> None:
    """bf16 keeps 8 bits: a product is off by up to 2^-9 of its size, and errors of the hidden states' few hundred
    terms are independent. Over the three blocks that leaves the mean loss within 1% and the norm within 4%; a wrong
    scale, a doubled bias or a lost rank is off by far more (a factor, or 10% and up)."""
    size, overrides = HALF_LAYOUTS[layout]
    refuse_far_from_golden(worlds(size).run(train, overrides), expected)


@pytest.mark.parametrize("layout", FP8_LAYOUTS)
def test_fp8_layout_stays_near_the_golden_run(layout: str, worlds: Worlds, expected: dict[str, Any]) -> None:
    """Operands of the blocks' products keep 4 bits, and gradients among them 3; the sums are fp32's, and their errors
    are independent too: seen are 0.3% of the loss and 0.8% of the norm."""
    size, overrides = FP8_LAYOUTS[layout]
    refuse_far_from_golden(worlds(size).run(train, overrides), expected)
