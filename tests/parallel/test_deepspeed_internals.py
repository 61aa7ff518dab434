"""What DeepSpeed has renamed or replaced is an error with its name, and another version one line."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer  # type: ignore[import-untyped]

from parallel import deepspeed_internals as internals
from parallel.deepspeed_internals import PROVED_VERSION, StateLayout, device_of, version_warning
from parallel.mesh import single_process_mesh
from tests.parity.cases import RATE, engine_of, half, mesh_for, micro_batches, settings_of
from tests.worlds import Worlds, mesh_of


def test_another_version_is_one_line_and_the_proved_one_none() -> None:
    assert version_warning() is None, "requirements.txt and PROVED_VERSION differ"
    assert version_warning(f"{PROVED_VERSION}+unknown") is None
    warning = version_warning("0.20.0")
    assert warning is not None and "\n" not in warning
    assert warning.startswith(f"warning: DeepSpeed 0.20.0 is installed and {PROVED_VERSION} is proved;")


def test_an_unknown_optimizer_is_named() -> None:
    engine = SimpleNamespace(optimizer=object.__new__(FP16_Optimizer))
    with pytest.raises(TypeError, match=r"fused_optimizer\.FP16_Optimizer, whose state this stack cannot read"):
        internals.state_layout(engine)
    with pytest.raises(TypeError, match=r"torch\.optim\.sgd\.SGD"):
        internals.torch_optimizer(SimpleNamespace(optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1)))


def renamed(overrides: list[str]) -> tuple[StateLayout, list[str]]:
    """How a live engine keeps its state, and what is said once DeepSpeed's names in it are others."""
    from parallel.full_state import MOMENTS, scatter

    engine = engine_of(settings_of(overrides), mesh_of())
    live: Any = engine.deepspeed
    layout, errors = internals.state_layout(live), []
    parameter: Any = next(live.module.parameters())
    value = torch.zeros(internals.built_shape(parameter))
    if layout is StateLayout.flat:
        mapping, parameter._another_name = parameter._hp_mapping, parameter._hp_mapping
        del parameter._hp_mapping
        with pytest.raises(AttributeError) as caught:
            assert engine.load_full_state(MOMENTS[0], lambda _: {"tokens.weight": value}) is None
        errors.append(str(caught.value))
        parameter._hp_mapping = mapping
    if layout is StateLayout.partitioned:
        part = parameter.ds_tensor
        del parameter.ds_tensor
        with pytest.raises(AttributeError) as caught:
            scatter(live, parameter, MOMENTS[0], value)
        errors.append(str(caught.value))
        parameter.ds_tensor = part
    engine.destroy()
    return layout, errors


@pytest.mark.parametrize(
    ("stage", "precision", "layout", "missing"),
    [
        (0, "fp32", StateLayout.whole, None),
        (1, "bf16", StateLayout.flat, "_hp_mapping"),
        (2, "fp32", StateLayout.flat, "_hp_mapping"),
        (3, "bf16", StateLayout.partitioned, "ds_tensor"),
    ],
)
def test_a_renamed_attribute_is_an_error(
    stage: int, precision: str, layout: StateLayout, missing: str | None, worlds: Worlds
) -> None:
    from tests.parallel import test_deepspeed_internals

    words = [f"layout.zero_stage={stage}", f"layout.precision={precision}"]
    ((found, errors),) = worlds(1).run(test_deepspeed_internals.renamed, words)
    assert found is layout
    assert len(errors) == (missing is not None) and all(str(missing) in error for error in errors)


def pipeline_without_bounds() -> str:
    """What is said where DeepSpeed's `PipelineModule` partitions its layers under another name."""
    from unittest.mock import patch

    from parallel.pipeline import PipelineModule

    original = PipelineModule.__init__

    def renamed_partition(self: Any, *arguments: Any, **keywords: Any) -> None:
        with patch.object(type(self), "_partition_layers", PipelineModule._partition_layers):
            original(self, *arguments, **keywords)

    settings = settings_of(["layout.pipeline_parallel_size=2", "layout.zero_stage=0"])
    with patch.object(PipelineModule, "__init__", renamed_partition), pytest.raises(RuntimeError) as caught:
        engine_of(settings, mesh_of(1, 2))
    return str(caught.value)


def test_bounds_that_deepspeed_does_not_ask_for_are_an_error(worlds: Worlds) -> None:
    from tests.parallel import test_deepspeed_internals

    for said in worlds(2).run(test_deepspeed_internals.pipeline_without_bounds):
        assert "did not call `_partition_layers`" in said


def test_deepspeed_takes_the_device_of_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Slurm tasks that see one GPU each, the fourth of a node has LOCAL_RANK 3 and device 0."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    with device_of(replace(single_process_mesh(), device=torch.device("cuda", 0))):
        assert os.environ["LOCAL_RANK"] == "0"
    assert os.environ["LOCAL_RANK"] == "3"
    with device_of(single_process_mesh()):
        assert os.environ["LOCAL_RANK"] == "3", "a CPU has no number"


def steps_around_a_nan(overrides: list[str]) -> dict[str, Any]:
    """Of a good step, one whose loss is nan, and two good ones: whether each was left out, its loss, and at the end the
    weights that this process is given."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    results = []
    for step in range(4):
        engine.set_lr(RATE)
        fault = engine.deepspeed.module[-1].register_forward_hook(
            lambda _, inputs, loss, step=step: loss * float("nan") if step == 1 else loss
        )
        results.append(engine.train_batch(micro_batches(step, settings, mesh)))
        fault.remove()
    weights = {name: value for name, value in engine.full_state() if value is not None}
    engine.destroy()
    return {"skipped": [r.skipped for r in results], "loss": [r.loss for r in results], "weights": weights}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("stage", [1, 2])
def test_an_offloaded_run_goes_on_after_a_step_that_was_not_taken(stage: int, precision: str, worlds: Worlds) -> None:
    """As ZeRO-2 does that is not offloaded: of itself DeepSpeed keeps the nan in its sums, and takes no step again."""

    def run(*words: str) -> list[dict[str, Any]]:
        if precision == "fp16":
            return worlds(2).run(half, steps_around_a_nan, ["layout.loss_scale.initial_power=8", *words])
        return worlds(2).run(steps_around_a_nan, ["layout.precision=bf16", *words])

    offloaded = run(f"layout.zero_stage={stage}", "layout.offload=optimizer")
    for found, expected in zip(offloaded, run("layout.zero_stage=2"), strict=True):
        assert found["skipped"] == expected["skipped"] == [False, True, False, False]
        # Mostly equal to the last bit. But a gradient near 0 that is rounded once otherwise has the other sign, and
        # AdamW's first step is as long in either direction.
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3, nan_ok=True)
        assert found["weights"].keys() == expected["weights"].keys()
        for name, value in found["weights"].items():
            torch.testing.assert_close(value, expected["weights"][name], rtol=1e-3, atol=6 * RATE)  # three steps
