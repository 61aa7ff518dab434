"""The fastest layouts that fit: every layout's time is predicted, and memory is planned in that order."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from conf.check import check
from conf.choices import Recompute
from conf.errors import ConfigError
from conf.schema import LayoutConfig, Settings
from train.plan.planner import plan
from train.plan.shapes import gpus_of_node, shapes
from train.plan.speed import StepTime, predict


@dataclass(frozen=True)
class Candidate:
    """A layout that fits. memory: bytes on the fullest GPU."""

    layout: LayoutConfig
    time: StepTime
    memory: int


SEARCHED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "sequence_parallel",
    "zero_stage",
    "recompute",
    "micro_batch_size",
)


def settings_of(layout: LayoutConfig) -> dict[str, Any]:
    """The settings under `layout` that the search chooses, as they are written on a command line."""
    chosen = {key: getattr(getattr(layout, key), "value", getattr(layout, key)) for key in SEARCHED}
    return {**chosen, "zero.hpz_partition_size": layout.zero.hpz_partition_size}


def fastest_layouts(settings: Settings, size: int, usable: int, count: int = 5) -> list[Candidate]:
    """The `count` layouts with the least predicted time among those that fit `usable` bytes on each of `size` GPUs.

    Sizes are those of `shapes`; under tensor parallelism hidden states are cut by sequence; ZeRO-3 on several nodes is
    tried with a second copy of the weights in each, and without. Offloading is as `settings` has it. Fewer than
    `count`, or none, where not so many fit.

    Errors: `ConfigError` where no layout divides the batches among the GPUs.
    """
    found: list[Candidate] = []
    ranked = sorted(_candidates(settings, size), key=lambda pair: pair[1].total)
    if not ranked:
        batches = sorted({stage.global_batch_size for stage in settings.stages.values()})
        raise ConfigError(
            f"no layout of model={settings.model.name} divides global_batch_size={', '.join(map(str, batches))} among "
            f"the replicas on {size} GPUs; use another number of GPUs, or another global_batch_size"
        )
    for other, time in ranked:
        if max(stage.total for stage in plan(other, size, measure=False)) > usable:
            continue
        memory = max(stage.total for stage in plan(other, size))
        if memory <= usable:
            found.append(Candidate(other.layout, time, memory))
        if len(found) == count:
            break
    return found


def _candidates(settings: Settings, size: int) -> Iterator[tuple[Settings, StepTime]]:
    """Every layout that `settings` can run with on `size` GPUs, and its time."""
    in_node = gpus_of_node(settings.cluster, size)
    for (tensor, pipeline, micro), zero, recompute in product(shapes(settings, size), (1, 2, 3), Recompute):
        layout = replace(
            settings.layout,
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            data_parallel_size=None,
            sequence_parallel=tensor > 1,
            zero_stage=zero,
            recompute=recompute,
            micro_batch_size=micro,
        )
        for near in sorted({1, in_node}) if zero == 3 and size > in_node else (1,):
            partition = replace(layout.zero, hpz_partition_size=near)
            other = replace(settings, layout=replace(layout, zero=partition))
            try:
                check(other, size)
            except ConfigError:
                continue
            yield other, predict(other, size)
