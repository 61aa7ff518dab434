"""The number of processes, the precision and the bounds that a plan takes. test_main.py compares plans with engines."""

from dataclasses import replace

import pytest

from conf.choices import Balance, Precision
from conf.compose import compose_settings
from conf.schema import Settings
from train.plan.planner import bounds_of, nearest_layout, on_gpu, plan, usable_bytes, world_size

BLOCK = ["model=350m", "model.n_layer=1", "layout.precision=bf16", "layout.micro_batch_size=8"]


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ([], 8),
        (["cluster=slurm_a100", "cluster.nodes=2"], 16),
        (["cluster.processes_per_node=3", "layout.micro_batch_size=1"], 3),
        (["layout=3d_2x2x2"], 8),
        (["model=2b", "layout=a100_64"], 64),
    ],
)
def test_the_number_of_processes(words: list[str], processes: int) -> None:
    assert world_size(compose_settings(words)) == processes


def test_auto_is_bf16_on_a_gpu_and_the_rest_is_kept(settings: Settings) -> None:
    auto = replace(settings, layout=replace(settings.layout, precision=Precision.auto))
    assert on_gpu(auto).layout.precision is Precision.bf16
    assert on_gpu(settings) == settings


def test_layers_are_cut_by_flops_where_there_is_nothing_to_time(settings: Settings) -> None:
    layout = replace(settings.layout, pipeline_parallel_size=2)
    cut = [bounds_of(replace(settings, layout=replace(layout, balance=balance))) for balance in Balance]
    assert (
        bounds_of(replace(settings, layout=replace(layout, balance=Balance.time)))
        == cut[list(Balance).index(Balance.flops)]
    )
    assert all(bounds[0] == 0 and bounds[-1] == settings.model.n_layer + 2 for bounds in cut)


def activations(*words: str) -> float:
    """MiB that a block of 350m keeps for its backward pass, at 8 x 2048 tokens."""
    two, one = (
        plan(compose_settings([*BLOCK, f"model.n_layer={n}", *words]), 8)[0].micro_batch.saved_activations
        for n in (2, 1)
    )
    return (two - one) / 2**20


def test_activations_are_those_of_the_forms_that_a_gpu_takes() -> None:
    """Of a block in units of `[tokens, d]` in bf16, 32 MiB: what the norm, the products and attention read and keep.
    Triton's middle keeps the pre-activation once and no copy of v; fp8 keeps the products' inputs in half the bytes."""
    triton, eager, fp8 = activations(), activations("kernels=eager"), activations("layout.precision=fp8")
    assert triton == pytest.approx(32 * (1 + 1 + 7 + 2 + 1 + 5), rel=0.05)
    assert eager - triton == pytest.approx(4 * 32, rel=0.05)
    assert triton - fp8 == pytest.approx(32 * (1 + 5) / 2, rel=0.1)


def test_fp8_weights_that_a_step_keeps_are_two_bytes_more_for_each_of_the_blocks() -> None:
    words = [*BLOCK, "layout.precision=fp8", "model.n_layer=2"]
    kept, cast = (
        plan(compose_settings([*words, f"layout.keep_fp8_weights={choice}"]), 8, measure=False)[0].states.weights
        for choice in ("true", "false")
    )
    assert kept - cast == 2 * 2 * 12 * 1024**2


def test_a_second_copy_within_a_node_takes_memory_and_spares_the_network() -> None:
    words = [*BLOCK, "layout.zero_stage=3", "cluster=slurm_a100", "cluster.nodes=2"]
    plain, near = (
        plan(compose_settings([*words, *more]), 16)[0] for more in ([], ["layout.zero.hpz_partition_size=8"])
    )
    assert near.states.weights - plain.states.weights == pytest.approx(2 * plain.parameters / 8, rel=0.02)
    (_, before), (_, after) = (each.collectives["data all-gather"] for each in (plain, near))
    assert after == 2 * plain.parameters and near.collectives["node all-gather"][1] == before - after > 0


def test_the_nearest_layout_keeps_a_pipeline_of_three_stages() -> None:
    words = ["model=350m", "layout.pipeline_parallel_size=3", "layout.precision=bf16", "layout.micro_batch_size=8"]
    settings = compose_settings([*words, "cluster.processes_per_node=3"])
    needed = max(stage.total for stage in plan(settings, 3))
    found = nearest_layout(settings, 3, needed - 1)
    assert found and "pipeline_parallel_size" not in found


def test_some_memory_stays_free() -> None:
    assert 70 * 2**30 < usable_bytes(80) < 76 * 2**30
