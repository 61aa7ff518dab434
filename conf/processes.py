"""How many processes a node has."""

from conf.choices import ClusterKind
from conf.cluster_schema import ClusterConfig
from conf.schema import LayoutConfig


def processes_per_node(cluster: ClusterConfig, layout: LayoutConfig) -> int | None:
    """As the cluster or the layout says, else one for each GPU that Slurm is asked for; None where nothing says it."""
    needed = layout.tensor_parallel_size * layout.pipeline_parallel_size * (layout.data_parallel_size or 0)
    asked = cluster.slurm.gpus_per_node if cluster.kind is ClusterKind.slurm else 0
    return cluster.processes_per_node or needed // cluster.nodes or asked or None
