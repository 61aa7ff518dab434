"""ZeRO-1 in bf16: gradients travel while backward computes, once, and are the ones that one process would have had."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from parallel.overlapped_reduction import OverlappedReduction, bucket_parameter_groups
from parallel.simulate import collectives
from tests.parity.cases import engine_of, mesh_for, micro_batches, settings_of
from tests.worlds import Worlds

BF16 = ["layout.precision=bf16", "layout.zero_stage=1", "layout.zero.reduce_bucket_size=4000"]
TP2, PP2, SP = "layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2", "layout.sequence_parallel=true"
IN_BF16 = "layout.reduce_dtype=bf16"
LAYOUTS = {"dp2": (2, []), "tp2 sp dp2": (4, [TP2, SP]), "pp2 dp2": (4, [PP2]), "dp2 in bf16": (2, [IN_BF16])}


def test_groups_are_split_into_buckets_in_order() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 4, 9, 1, 1)]
    groups = [{"params": parameters[:4], "weight_decay": 0.5}, {"params": parameters[4:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9))
    bucket_parameter_groups(optimizer, 8)
    assert [[p.numel() for p in group["params"]] for group in optimizer.param_groups] == [[3, 4], [9], [1], [1]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5, 0.0]
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def one_step(overrides: list[str]) -> dict[str, Any]:
    """A step without clipping and learning: the norm that was reported, the gradients (AdamW's first moment is a tenth
    of them), what was sent, and how many products began after the first reduction."""
    settings = settings_of([*BF16, "optimizer.gradient_clipping=0.0", *overrides])
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    reduction = engine.overlapped
    assert isinstance(reduction, OverlappedReduction)
    engine.set_lr(0.0)
    with collectives() as record, profile(activities=[ProfilerActivity.CPU]) as trace:
        result = engine.train_batch(micro_batches(0, settings, mesh))
        engine.overlapped.wait()
    sent: Counter[str] = Counter()
    for collective in record:
        sent[collective.kind] += collective.bytes
    events = sorted(trace.events(), key=lambda event: event.time_range.start)
    starts = [e.time_range.start for e in events if "reduce_scatter" in e.name]
    gradients = {name: 10 * value for name, value in engine.full_state("exp_avg") if value is not None}
    outcome = {
        "norm": result.gradient_norm,
        "gradients": gradients,
        "sent": dict(sent),
        "flat": sum(bucket.gradients.numel() for bucket in reduction.buckets),
        "buckets": len(reduction.buckets),
        "beside": sum(e.name == "aten::mm" and e.time_range.start > starts[0] for e in events) if starts else None,
        "names": sorted({e.name for e in events if "reduce" in e.name or "gather" in e.name}),
    }
    engine.destroy()
    return outcome


@pytest.fixture(scope="module", params=LAYOUTS)
def stepped(request: pytest.FixtureRequest, worlds: Worlds) -> tuple[str, list[dict[str, Any]]]:
    """`one_step` of each process, under each of the layouts."""
    from tests.parallel import test_overlapped_reduction

    size, overrides = LAYOUTS[request.param]
    return request.param, worlds(size).run(test_overlapped_reduction.one_step, overrides)


def test_the_norm_is_that_of_the_whole_gradient(stepped: tuple[str, list[dict[str, Any]]]) -> None:
    _, results = stepped
    gradients: dict[str, torch.Tensor] = {}
    for result in results:
        gradients |= result["gradients"]
    norm = torch.stack([gradient.double().square().sum() for gradient in gradients.values()]).sum().sqrt().item()
    assert norm > 0.1
    for result in results:
        assert result["norm"] == pytest.approx(norm, rel=1e-5)


def test_each_gradient_is_reduced_once_and_each_weight_gathered_once(
    stepped: tuple[str, list[dict[str, Any]]],
) -> None:
    layout, results = stepped
    for result in results:
        assert result["buckets"] > 3
        if not layout.startswith("tp2"):  # sequence parallelism scatters and gathers hidden states too
            assert result["sent"]["reduce-scatter"] == (2 if layout.endswith("in bf16") else 4) * result["flat"]
            assert result["sent"]["all-gather"] == 2 * result["flat"]
            assert result["sent"]["all-reduce"] < 100  # the norm and the loss


def test_reductions_are_under_way_while_backward_computes(stepped: tuple[str, list[dict[str, Any]]]) -> None:
    for result in stepped[1]:
        assert result["beside"], result["names"]


def broken(overrides: list[str]) -> str:
    """What is said where a parameter's gradient is not computed."""
    settings = settings_of([*BF16, *overrides])
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    engine.deepspeed.module[-1].bias.requires_grad_(False)
    with pytest.raises(RuntimeError) as caught:
        engine.train_batch(micro_batches(0, settings, mesh))
    return str(caught.value)


def test_a_gradient_that_is_missing_is_an_error(worlds: Worlds) -> None:
    from tests.parallel import test_overlapped_reduction

    for said in worlds(2).run(test_overlapped_reduction.broken, []):
        assert "gradients of a bucket were not computed" in said
