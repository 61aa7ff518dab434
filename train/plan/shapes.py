"""Sizes to search among: those that divide the GPUs and the model, and micro-batches that divide a replica's share."""

from collections.abc import Iterator
from itertools import product
from math import gcd

from conf.cluster_schema import ClusterConfig
from conf.schema import Settings
from train.plan import GPUS_A_NODE

LARGEST_MICRO_BATCH = 64  # sequences: larger ones are no faster, and each more is planned


def gpus_of_node(cluster: ClusterConfig, size: int) -> int:
    """GPUs of a run of `size` that are in one node, and reach each other without the network."""
    return min(size // cluster.nodes, cluster.processes_per_node or cluster.slurm.gpus_per_node or GPUS_A_NODE)


def shapes(settings: Settings, size: int) -> Iterator[tuple[int, int, int]]:
    """(tensor_parallel_size, pipeline_parallel_size, micro_batch_size) that cut `size` GPUs and every stage's batch.

    Tensor parallelism stays within a node, or is as `settings` has it.
    """
    batch = gcd(*(stage.global_batch_size for stage in settings.stages.values()))
    tensors = {*_divisors(gpus_of_node(settings.cluster, size)), settings.layout.tensor_parallel_size}
    pipelines = [pipeline for pipeline in _divisors(size) if pipeline <= settings.model.n_layer]
    for tensor, pipeline in product(sorted(tensors), pipelines):
        replicas, left = divmod(size, tensor * pipeline)
        if left or batch % replicas:
            continue
        for micro in _divisors(batch // replicas):
            if micro <= LARGEST_MICRO_BATCH:
                yield tensor, pipeline, micro


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
