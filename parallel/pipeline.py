"""Pipeline parallelism: which layers each stage holds, as a DeepSpeed `PipelineModule` with explicit bounds."""

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from deepspeed.pipe import LayerSpec, PipelineModule  # type: ignore[import-untyped]
from torch import Tensor, nn

from parallel.layout import World


def stage_bounds(costs: Sequence[float], stages: int) -> list[int]:
    """Cut layers into `stages` contiguous runs, none empty, so that the costliest run is as cheap as can be.

    Returns `stages + 1` bounds: stage s holds layers bounds[s] to bounds[s + 1] - 1. Uneven runs are normal: CodeGen
    has 33 and 34 blocks. Of equal cuts the one that loads late stages least is taken: the last holds the head's logits.
    Errors: ValueError where there are fewer layers than stages.
    """
    if stages > len(costs):
        raise ValueError(f"{len(costs)} layers cannot fill {stages} pipeline stages")
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [0])}
    for stage in range(1, stages + 1):
        for end in range(stage, len(costs) - (stages - stage) + 1):
            cuts = (
                (max(best[stage - 1, start][0], sum(costs[start:end])), [*best[stage - 1, start][1], end])
                for start in range(stage - 1, end)
                if (stage - 1, start) in best
            )
            best[stage, end] = min(cuts, key=lambda cut: (cut[0], [-bound for bound in cut[1]]))
    return best[stages, len(costs)][1]


class _Pipeline(PipelineModule):  # type: ignore[misc]
    """`PipelineModule` that takes its bounds as given: DeepSpeed's own way builds every layer on every process."""

    def __init__(self, bounds: list[int], **keys: Any) -> None:
        self.parts = bounds
        super().__init__(**keys)

    def _partition_layers(self, method: str = "") -> None:
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])


def build_pipeline(
    builders: Sequence[partial[nn.Module]],
    initialise: Callable[[nn.Module, int], None],
    costs: Sequence[float],
    world: World,
) -> Any:
    """This process's stage of the pipeline: only its own layers are built, then set by `initialise(layer, index)`."""

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return pipeline.forward_funcs[-1].loss(output, labels)  # type: ignore[no-any-return]

    with contextlib.redirect_stdout(io.StringIO()):
        pipeline = _Pipeline(
            stage_bounds(costs, world.pipeline_size),
            layers=[LayerSpec(builder.func, *builder.args, **builder.keywords) for builder in builders],
            topology=world.grid.topology(),
            loss_fn=loss,
            activation_checkpoint_interval=0,
        )
    for name, layer in pipeline.named_children():
        if name.isdigit():
            initialise(layer, int(name))
    return pipeline
