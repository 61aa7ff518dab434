"""Shapes divide the GPUs, the layers and every stage's batch, and are not powers of two only."""

import pytest

from conf.compose import compose_settings
from train.plan.shapes import gpus_of_node, shapes


@pytest.mark.parametrize(
    ("words", "size", "gpus"),
    [
        (["cluster=slurm_a100"], 16, 8),
        (["cluster=slurm_a100"], 4, 4),
        (["cluster=slurm_a100", "nodes=4", "cluster.processes_per_node=4"], 16, 4),
        (["cluster=slurm", "nodes=2", "cluster.slurm.gpus_per_node=4"], 8, 4),
        (["cluster=slurm", "nodes=4", "cluster.slurm.gpus_per_node=4"], 8, 2),  # the layout takes half of each
        (["layout=a100_64"], 64, 8),
    ],
)
def test_the_gpus_of_a_node(words: list[str], size: int, gpus: int) -> None:
    assert gpus_of_node(compose_settings(words).cluster, size) == gpus


def test_sizes_and_micro_batches_are_divisors() -> None:
    batches = ["stage=nl,multi", "stages.nl.global_batch_size=48", "stages.multi.global_batch_size=24"]
    settings = compose_settings(["cluster=slurm_a100", "model=350m", "nodes=3", *batches])
    found = set(shapes(settings, 24))
    assert {tensor for tensor, _, _ in found} == {1, 2, 4, 8}
    assert {pipeline for _, pipeline, _ in found} == {1, 2, 3, 4, 6, 8, 12}, "24 are more than the layers"
    assert sorted(micro for tensor, pipeline, micro in found if (tensor, pipeline) == (2, 3)) == [1, 2, 3, 6]


def test_tensor_parallelism_over_several_nodes_is_tried_only_where_the_settings_have_it() -> None:
    words = ["cluster=slurm_a100", "model=350m", "nodes=2", "cluster.processes_per_node=4"]
    for own, sizes in (([], {1, 2, 4}), (["layout.tensor_parallel_size=8"], {1, 2, 4, 8})):
        assert {tensor for tensor, _, _ in shapes(compose_settings([*words, *own]), 8)} == sizes


def test_there_are_none_where_the_batch_cannot_be_shared() -> None:
    assert not list(shapes(compose_settings(["cluster=slurm_a100", "model=350m"]), 8 * 23))
