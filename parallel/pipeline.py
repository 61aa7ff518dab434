"""Pipeline parallelism: a DeepSpeed `PipelineModule` with explicit bounds of its pipeline stages."""

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from deepspeed.pipe import LayerSpec, PipelineModule  # type: ignore[import-untyped]
from torch import Tensor, nn

from parallel.mesh import ProcessMesh


def pipeline_bounds(costs: Sequence[float], stages: int) -> list[int]:
    """Split layers into `stages` contiguous, non-empty pipeline stages that minimise the largest cost of one.

    Returns `stages + 1` bounds: pipeline stage s holds layers bounds[s] to bounds[s + 1] - 1. Uneven stages are normal:
    CodeGen has 33 and 34 blocks. Ties go to the split with less in the late stages: the last also holds the logits.
    Errors: ValueError where there are fewer layers than pipeline stages.
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
    """`PipelineModule` that takes its bounds as given, and whose last stage turns `labels` into the loss in `forward`.

    DeepSpeed's own way of cutting builds every layer on every process. Its own way to the loss, `loss_fn` outside of
    `forward`, loses the head's gradients in bf16: a hook on forward's output clears what came before it.
    """

    labels: Tensor | None = None  # of the micro-batch that the last stage computes next; None: forward ends at the head

    def __init__(self, bounds: list[int], **keys: Any) -> None:
        self.parts = bounds
        super().__init__(**keys)

    def _partition_layers(self, method: str = "") -> None:
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])

    def forward(self, x: Tensor) -> Tensor:
        """Token ids or hidden states -> hidden states; with `labels`, the last stage's loss."""
        output: Tensor = super().forward(x)
        is_last = self._local_stop == self._num_layers
        if is_last and self.labels is not None:
            return spread_nonfinite(self.forward_funcs[-1].loss(output, self.labels))
        return output


def spread_nonfinite(loss: Tensor) -> Tensor:
    """`loss`, whose gradients are nan where it is not finite, so that what looks at gradients sees every bad loss."""
    return loss * (1 + 0 * loss.detach())


def build_pipeline(
    builders: Sequence[partial[nn.Module]],
    initialise: Callable[[nn.Module, int], None],
    costs: Sequence[float],
    mesh: ProcessMesh,
) -> Any:
    """This process's stage of the pipeline: only its own layers are built, then set by `initialise(layer, index)`."""

    with contextlib.redirect_stdout(io.StringIO()):
        pipeline = _Pipeline(
            pipeline_bounds(costs, mesh.pp_size),
            layers=[LayerSpec(builder.func, *builder.args, **builder.keywords) for builder in builders],
            topology=mesh.grid.topology(),
            activation_checkpoint_interval=0,
        )
    for name, layer in pipeline.named_children():
        if name.isdigit():
            initialise(layer, int(name))
    return pipeline
