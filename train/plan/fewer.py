"""How a run that lost nodes resumes with those that are left: the same global batch, the layout adjusted.

`python -m train.plan.fewer NODES WORDS ...` prints the settings to change in a launch with WORDS, or nothing. With
cluster=hostfile NODES are the names of hosts to leave out, `n1,n2`, of those that NODES in the environment has by rank.
"""

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from conf.check import AUTO, check
from conf.choices import ClusterKind
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.schema import Settings
from train.plan.planner import nearest_layout, on_gpu, plan, usable_bytes, world_size


def fewer_nodes(settings: Settings, nodes: int) -> list[str]:
    """Overrides for the most nodes, `nodes` or fewer, that can train the same global batches; empty where none can."""
    settings = on_gpu(settings)
    per_node = world_size(settings) // settings.cluster.nodes
    for count in range(nodes, 0, -1):
        for words, candidate in _candidates(settings, count, per_node):
            try:
                check(candidate, count * per_node)
            except ConfigError:
                continue
            changed = _to_fit(candidate, count * per_node)
            if changed is not None:
                return [f"nodes={count}", *words, *changed]
    return []


def fewer_hosts(settings: Settings, ranks: Sequence[str], missing: Collection[str]) -> list[str]:
    """As `fewer_nodes`, for hosts of a hostfile without those of `missing`; ranks: the host of every rank, by rank."""
    slots = Counter(ranks)
    left = [host for host in slots if host not in missing]
    per_host = min(slots.values())
    if not left or per_host < max(slots.values()):
        return []  # hosts of several sizes are a person's to combine
    cluster = replace(settings.cluster, nodes=len(slots), processes_per_node=per_host)
    words = fewer_nodes(replace(settings, cluster=cluster), len(left))
    if not words:
        return []
    kept = left[: int(words[0].partition("=")[2])]
    out = [*settings.cluster.exclude, *(host for host in slots if host not in kept)]
    spares = ["cluster.spares=0"] if settings.cluster.spares else []
    return [f"cluster.exclude=[{','.join(out)}]", *spares, *words[1:]]


def _candidates(settings: Settings, nodes: int, per_node: int) -> Iterator[tuple[list[str], Settings]]:
    """(words, settings) on so many nodes, with the micro-batch as it is, then with smaller ones."""
    layout = settings.layout
    replicas, left = divmod(nodes * per_node, layout.tensor_parallel_size * layout.pipeline_parallel_size)
    if left or not replicas:
        return
    cluster = replace(settings.cluster, nodes=nodes)
    given = {} if layout.data_parallel_size is None else {"data_parallel_size": replicas}
    size = layout.micro_batch_size
    for micro in [size] if size == AUTO else [m for m in range(size, 0, -1) if size % m == 0]:
        changed = given if micro == size else {**given, "micro_batch_size": micro}
        words = [f"layout.{key}={value}" for key, value in changed.items()]
        yield words, replace(settings, cluster=cluster, layout=replace(layout, **changed))


def _to_fit(settings: Settings, size: int) -> list[str] | None:
    """Words that make the layout fit the devices' memory: none where it does or is not known; None where none do."""
    memory = settings.cluster.device_memory_gib
    if memory is None or settings.layout.micro_batch_size == AUTO:
        return []
    usable = usable_bytes(memory)
    if max(stage.total for stage in plan(settings, size)) <= usable:
        return []
    keys = nearest_layout(settings, size, usable)
    return None if keys is None else [f"layout.{key}={getattr(value, 'value', value)}" for key, value in keys.items()]


def main(argv: list[str]) -> int:
    """Print the words."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    settings = compose_settings(argv[1:])
    if settings.cluster.kind is ClusterKind.hostfile:
        words = fewer_hosts(settings, os.environ["NODES"].split(), argv[0].split(","))
    else:
        words = fewer_nodes(settings, int(argv[0]))
    print(*words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
