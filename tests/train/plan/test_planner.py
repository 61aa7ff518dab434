"""The number of processes, the precision and the bounds that a plan takes. test_main.py compares plans with engines."""

from dataclasses import replace

import pytest

from conf.choices import Balance, Precision
from conf.compose import compose_settings
from conf.schema import Settings
from train.plan.planner import bounds_of, on_gpu, usable_bytes, world_size


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


def test_some_memory_stays_free() -> None:
    assert 70 * 2**30 < usable_bytes(80) < 76 * 2**30
