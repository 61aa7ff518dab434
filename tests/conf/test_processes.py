"""The processes of a node, as launch starts them and train.plan counts them."""

import pytest

from conf.compose import compose_settings
from conf.processes import processes_per_node


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ([], None),
        (["cluster=slurm"], None),
        (["cluster=slurm", "nodes=2", "cluster.slurm.gpus_per_node=4"], 4),
        (["cluster.slurm.gpus_per_node=4"], None),  # here no job asks for them
        (["cluster=slurm", "nodes=2", "layout=3d_2x2x2", "cluster.slurm.gpus_per_node=8"], 4),
        (["cluster=slurm_a100", "layout=3d_2x2x2"], 8),
        (["cluster.processes_per_node=3", "layout.micro_batch_size=1"], 3),
    ],
)
def test_the_processes_of_a_node(words: list[str], processes: int | None) -> None:
    settings = compose_settings(words)
    assert processes_per_node(settings.cluster, settings.layout) == processes
