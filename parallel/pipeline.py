"""Pipeline parallelism: a DeepSpeed `PipelineModule` with explicit bounds of its pipeline stages."""

import contextlib
import io
from collections.abc import Callable, Sequence
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
    """`PipelineModule` with given bounds, whose last pipeline stage computes the loss from `labels` in `forward`.

    DeepSpeed's own partitioning by parameters builds every layer on every process. Its own way for labels, `loss_fn`,
    does not serve: it is called on `forward`'s output, and the backward hook that DeepSpeed sets on that output clears
    the gradients which the loss has left before it, those of the head. Labels as a second output of each layer would
    be sent through every pipeline stage. So the engine sets `labels` as DeepSpeed takes each micro-batch.
    """

    labels: Tensor | None = None  # of the micro-batch that the last stage computes next; None: no loss

    def __init__(self, bounds: list[int], **keys: Any) -> None:
        self.bounds = bounds
        self.bounds_were_used = False
        super().__init__(**keys)
        if not self.bounds_were_used:
            raise RuntimeError("DeepSpeed's PipelineModule did not call `_partition_layers`, which sets the bounds")

    def _partition_layers(self, method: str = "") -> None:
        pipeline_stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.bounds[pipeline_stage], stop=self.bounds[pipeline_stage + 1])
        self.bounds_were_used = True

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


class _Layer(LayerSpec):  # type: ignore[misc]
    """A layer that `PipelineModule` builds by calling `build_layer`."""

    def __init__(self, build_layer: Callable[[], nn.Module]) -> None:
        super().__init__(nn.Module)
        self.build_layer = build_layer

    def build(self, log: bool = False) -> nn.Module:
        """The layer, called by DeepSpeed for those of this pipeline stage."""
        return self.build_layer()


def build_pipeline(build_layers: Sequence[Callable[[], nn.Module]], costs: Sequence[float], mesh: ProcessMesh) -> Any:
    """This process's pipeline stage, a `PipelineModule`: only its own of `build_layers` are called."""
    with contextlib.redirect_stdout(io.StringIO()):
        return _Pipeline(
            pipeline_bounds(costs, mesh.pp_size),
            layers=[_Layer(build_layer) for build_layer in build_layers],
            topology=mesh.grid.topology(),
            activation_checkpoint_interval=0,
        )
