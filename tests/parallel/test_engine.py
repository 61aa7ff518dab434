"""No layout takes a step that is not finite: not for a loss, nor for a gradient of one process only."""

import contextlib
import io
import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from tests.parity.cases import engine_of, half, mesh_for, micro_batches, settings_of
from tests.worlds import Worlds

TP2, PP2 = "layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2"
LAYOUTS = [
    *(f"layout.zero_stage={stage}" for stage in range(4)),
    f"layout.zero_stage=0 {TP2}",
    f"layout.zero_stage=1 {TP2}",
    f"layout.zero_stage=0 {PP2}",
    f"layout.zero_stage=1 {PP2}",
    f"layout.zero_stage=3 {TP2}",
    "layout.zero_stage=1 layout.precision=bf16",
    f"layout.zero_stage=1 layout.precision=bf16 {PP2}",
    f"layout.zero_stage=1 layout.precision=bf16 {TP2}",
    "layout.zero_stage=3 layout.precision=bf16",
    "layout.zero_stage=2 layout.offload=optimizer",
    "layout.zero_stage=3 layout.offload=parameters",
]


def faulty_steps(layout: str) -> list[tuple[bool, bool, float, bool]]:
    """(not taken, weights unchanged, gradient norm, a finite loss) of: a good step, a nan in the gradient of a
    replicated parameter on the last process only, a loss of inf whose gradients are finite, and a good step."""
    from tests.parity.cases import engine_of, mesh_for, micro_batches, settings_of

    settings = settings_of(layout.split())
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    parameters = dict(engine.deepspeed.module.named_parameters())
    engine.set_lr(0.01)
    result = []
    for step, fault in enumerate((None, "gradient", "loss", None)):
        before = {name: value.clone() for name, value in engine.full_state() if value is not None}
        hooks = []
        if fault == "gradient" and mesh.rank == mesh.size - 1:
            name = next(name for name in parameters if name.endswith("norm.weight"))
            hooks.append(parameters[name].register_hook(lambda g: g * math.nan))
        last = mesh.pp_rank == mesh.pp_size - 1
        if fault == "loss" and last:
            head = engine.deepspeed.module[-1] if mesh.pp_size == 1 else engine.deepspeed.module.forward_funcs[-1]
            loss, head.loss = head.loss, lambda *words: loss(*words) + math.inf
        outcome = engine.train_batch(micro_batches(step, settings, mesh))
        for hook in hooks:
            hook.remove()
        if fault == "loss" and last:
            del head.loss
        after = {name: value for name, value in engine.full_state() if value is not None}
        same = not mesh.any_rank(any(not torch.equal(before[name], after[name]) for name in before))
        result.append((outcome.skipped, same, outcome.gradient_norm, math.isfinite(outcome.loss)))
    engine.destroy()
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_that_is_not_finite_is_not_taken(layout: str, worlds: Worlds) -> None:
    from tests.parallel import test_engine

    for steps in worlds(2).run(test_engine.faulty_steps, layout):
        skipped, unchanged, norms, finite = zip(*steps, strict=True)
        assert skipped == (False, True, True, False)
        assert unchanged[1:3] == (True, True) and not unchanged[3]
        assert [math.isfinite(norm) for norm in norms] == [True, False, False, True]
        assert finite == (True, True, False, True)


def printed_while_built(overrides: list[str]) -> str:
    """What building an engine writes to standard output."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        engine_of(settings, mesh).destroy()
    return printed.getvalue()


def test_building_prints_nothing(worlds: Worlds) -> None:
    """DeepSpeed's `BF16_Optimizer` would print the memory in use, several lines a parameter group."""
    assert worlds(1).run(printed_while_built, ["layout.precision=bf16"]) == [""]


def overflowing_steps(overrides: list[str]) -> list[tuple[bool, bool, float]]:
    """(not taken, the search for a scale of the loss, scale after it) of four steps."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    engine.set_lr(0.01)
    result = []
    for step in range(4):
        outcome = engine.train_batch(micro_batches(step, settings, mesh))
        result.append((outcome.skipped, outcome.rescaled, engine.trainer_state["loss_scale"]["cur_scale"]))
    engine.destroy()
    return result


def test_a_step_left_out_at_the_smallest_scale_is_a_fault(worlds: Worlds) -> None:
    """Whatever the smallest is: train/health.py goes back after a few of them."""
    words = ["layout.zero_stage=1", "layout.loss_scale.hysteresis=1", "layout.loss_scale.initial_power=30"]
    (steps,) = worlds(1).run(half, overflowing_steps, [*words, f"layout.loss_scale.minimum={2**28}"])
    assert steps == [(True, True, 2**29), (True, True, 2**28), (True, False, 2**28), (True, False, 2**28)]


def gathered_devices(overrides: list[str]) -> set[str]:
    """Where the tensors are that the whole state is gathered from, and into, where torch's device without memory stands
    for a GPU: what DeepSpeed has offloaded stays on the CPU."""
    settings = settings_of(overrides)
    engine = engine_of(settings, mesh_for(settings))
    engine.mesh = replace(engine.mesh, device=torch.device("meta"))
    devices: set[str] = set()

    def all_gather(slices: list[torch.Tensor], value: torch.Tensor, group: object) -> None:
        devices.update(each.device.type for each in (value, *slices))

    with patch("torch.distributed.all_gather", all_gather), patch("parallel.engine.to_host", lambda value: value):
        assert len(list(engine.full_state())) > len(devices) > 0
    engine.destroy()
    return devices


def test_offloaded_state_is_gathered_on_the_device(worlds: Worlds) -> None:
    """NCCL takes no tensors of the host, where the whole values of a parameter are that has one replica."""
    for stage in (1, 2):
        words = [f"layout.zero_stage={stage}", TP2, "layout.offload=optimizer"]
        assert worlds(2).run(gathered_devices, words) == [{"meta"}] * 2
