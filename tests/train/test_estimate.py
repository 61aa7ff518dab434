"""The time of a stage is told before its first step, from layers that are timed on the device."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.choices import Precision
from conf.compose import compose_settings
from conf.run_folder import append_records
from conf.schema import ModelConfig
from model.kernels import REFERENCE
from parallel.mesh import single_process_mesh
from train.estimate import log_estimates, training_seconds

SHAPE = ["stage=nl,mono", "stages.nl.steps=10", "stages.nl.global_batch_size=32", "layout.micro_batch_size=4"]


@pytest.mark.parametrize(
    ("layout", "size", "seconds"),
    [
        ([], 1, 10 * 32 * 0.5),
        ([], 4, 10 * 8 * 0.5),
        (["layout.tensor_parallel_size=2"], 4, 10 * 16 * 0.5 / 2),
        (["layout.pipeline_parallel_size=2"], 2, 10 * 32 * 0.5 / 2 * 9 / 8),  # 8 micro-batches, 9 slots
    ],
)
def test_layouts_share_the_work(layout: list[str], size: int, seconds: float) -> None:
    settings = compose_settings(["model=tiny", *SHAPE, *layout])
    assert training_seconds(settings, settings.stages["nl"], 0.5, size) == pytest.approx(seconds)


def test_each_stage_of_a_new_run_gets_a_line(tmp_path: Path, tiny: ModelConfig) -> None:
    settings = replace(compose_settings(["model=tiny", *SHAPE]), model=tiny)
    lines: list[str] = []
    context: Any = SimpleNamespace(
        settings=settings,
        folder=tmp_path,
        mesh=single_process_mesh(),
        kernels=REFERENCE,
        precision=Precision.fp32,
        log=lines.append,
    )
    log_estimates(context)
    assert [line.partition(":")[0] for line in lines] == ["stage nl", "stage mono"]
    assert all(" of training, by the time of its layers here" in line for line in lines)
    first: dict[str, Any] = {"stage": "nl", "step": 1, "loss": 2.0, "tokens_per_second": 100.0}
    append_records(tmp_path / "metrics.jsonl", [first | {"start_seconds": 9.0}])
    log_estimates(context)
    assert len(lines) == 4, "the first step of a process tells no speed: it compiles"
    append_records(tmp_path / "metrics.jsonl", [first | {"step": 2}])
    log_estimates(context)
    assert len(lines) == 4
