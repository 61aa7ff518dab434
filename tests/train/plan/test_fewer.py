"""A run that lost nodes is told how it resumes with those that are left."""

import pytest

from conf.compose import compose_settings
from train.plan.fewer import fewer_hosts, fewer_nodes

TINY = ["cluster=slurm", "model=tiny", "stage=nl", "stages.nl.global_batch_size=24", "layout.micro_batch_size=4"]


@pytest.mark.parametrize(
    ("words", "left", "told"),
    [
        (["nodes=3"], 2, ["nodes=2", "layout.micro_batch_size=2"]),  # 4 replicas of 4 do not divide 24, of 2 they do
        (["nodes=3", "layout.micro_batch_size=2"], 2, ["nodes=2"]),
        (["nodes=3", "layout.tensor_parallel_size=2"], 2, ["nodes=2"]),
        (
            ["nodes=3", "layout.tensor_parallel_size=2", "layout.data_parallel_size=3"],
            1,
            ["nodes=1", "layout.data_parallel_size=1"],
        ),
        (["nodes=3", "stages.nl.global_batch_size=6", "layout.micro_batch_size=1"], 2, ["nodes=1"]),
    ],
)
def test_the_global_batch_is_kept(words: list[str], left: int, told: list[str]) -> None:
    found = fewer_nodes(compose_settings([*TINY, "cluster.processes_per_node=2", *words]), left)
    assert found == told


def test_memory_decides_where_it_is_known() -> None:
    words = ["model=2b", "stage=nl", "layout=a100_64", "nodes=8", "cluster.processes_per_node=8"]
    settings = compose_settings([*words, "cluster.device_memory_gib=80", "cluster=slurm_a100"])
    found = fewer_nodes(settings, 7)
    assert found[0] == "nodes=4" and all(word.startswith(("nodes=", "layout.")) for word in found)


@pytest.mark.parametrize(
    ("more", "ranks", "missing", "told"),
    [
        ([], "a a b b c c", {"b"}, ["cluster.exclude=[b]", "layout.micro_batch_size=2"]),
        (["cluster.exclude=[x]", "cluster.spares=1"], "a b c", {"c"}, ["cluster.exclude=[x,c]", "cluster.spares=0"]),
        (
            ["stages.nl.global_batch_size=6", "layout.micro_batch_size=1"],
            "a a b b c c",
            {"a"},
            ["cluster.exclude=[a,c]"],
        ),
        ([], "a a b", {"b"}, []),  # hosts of several sizes
        ([], "a a", {"a"}, []),
    ],
)
def test_hosts_that_are_left_out_are_named(more: list[str], ranks: str, missing: set[str], told: list[str]) -> None:
    settings = compose_settings([*TINY, "cluster=hostfile", *more])
    assert fewer_hosts(settings, ranks.split(), missing) == told
