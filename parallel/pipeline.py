"""Pipeline parallelism: a DeepSpeed `PipelineModule` with explicit bounds of its pipeline stages."""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepspeed.pipe import LayerSpec, PipelineModule  # type: ignore[import-untyped]
from torch import Tensor, nn

from parallel.mesh import ProcessMesh

Documents = Callable[[Tensor], Any]


def pipeline_bounds(costs: Sequence[float], stages: int, trained: Sequence[bool] | None = None) -> list[int]:
    """Split layers into `stages` contiguous, non-empty pipeline stages that minimise the largest cost of one.

    Returns `stages + 1` bounds: pipeline stage s holds layers bounds[s] to bounds[s + 1] - 1. Uneven stages are normal:
    CodeGen has 33 and 34 blocks. Ties go to the split with less in the late stages: the last also holds the logits.
    trained: of each layer, whether anything in it is; every stage gets such a layer.
    Errors: ValueError where there are fewer (trained) layers than pipeline stages.
    """
    trained = [True] * len(costs) if trained is None else trained
    if stages > sum(trained):
        raise ValueError(f"{sum(trained)} layers cannot fill {stages} pipeline stages")
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [0])}
    for stage in range(1, stages + 1):
        for end in range(stage, len(costs) - (stages - stage) + 1):
            cuts = (
                (max(best[stage - 1, start][0], sum(costs[start:end])), [*best[stage - 1, start][1], end])
                for start in range(stage - 1, end)
                if (stage - 1, start) in best and any(trained[start:end])
            )
            found = min(cuts, key=lambda cut: (cut[0], [-bound for bound in cut[1]]), default=None)
            if found is not None:
                best[stage, end] = found
    return best[stages, len(costs)][1]


def pipeline_bubble(stages: int, micro_batches: int, interleaving: int = 1) -> float:
    """Idle time of a pipeline stage in a step, over the time that it computes (arXiv 2104.04473, section 2.2).

    interleaving: parts of the model that each stage holds; 1 in this stack.
    """
    return (stages - 1) / interleaving / micro_batches


class _Pipeline(PipelineModule):  # type: ignore[misc]
    """`PipelineModule` with given bounds, whose last pipeline stage computes the loss from `labels` in `forward`.

    DeepSpeed's own partitioning by parameters builds every layer on every process. Its own way for labels, `loss_fn`,
    does not serve: it is called on `forward`'s output, and the backward hook that DeepSpeed sets on that output clears
    the gradients which the loss has left before it, those of the head. Labels as a second output of each layer would
    be sent through every pipeline stage. So the engine sets `labels` as DeepSpeed takes each micro-batch.

    The positions of documents that do not see each other are needed by every block. They are few bytes, and travel from
    stage to stage beside hidden states, as DeepSpeed sends a tuple's integers: without a gradient.
    """

    labels: Tensor | None = None  # of the micro-batch that the last stage computes next; None: no loss
    label_weight: Tensor | None = None  # of the same optimizer step, see `Engine.train_batch`
    documents: Documents | None = None  # what layers are given of a micro-batch's positions

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

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Token ids or hidden states -> hidden states, with positions beside them where they came with any.

        With `labels`, the last stage's loss.
        """
        states, positions = x if isinstance(x, tuple) else (x, None)
        is_last = self._local_stop == self._num_layers
        body = self.forward_funcs[:-1] if is_last else self.forward_funcs
        states = run_layers(body, states, positions, self.documents)
        if not is_last:
            return states if positions is None else (states, positions)
        head = self.forward_funcs[-1]
        output: Tensor = head(states)
        return output if self.labels is None else weigh_loss(head.loss(output, self.labels), self.label_weight)


def run_layers(
    layers: Iterable[Callable[..., Tensor]], x: Tensor, positions: Tensor | None, documents: Documents | None
) -> Tensor:
    """`x` through `layers`, each given what `documents` makes of the positions `[batch, seq]`, where there are any."""
    if positions is None:
        for layer in layers:
            x = layer(x)
        return x
    if documents is None:
        raise ValueError("a micro-batch has positions in documents, and build_engine was given no `documents`")
    shared = documents(positions)  # once for all layers
    for layer in layers:
        x = layer(x, documents=shared)
    return x


def weigh_loss(loss: Tensor, weight: Tensor | None) -> Tensor:
    """`loss` times `weight`; its gradients are nan where it is not finite, so that who looks at them sees it."""
    weighed = loss if weight is None else loss * weight
    return weighed * (1 + 0 * weighed.detach())


class _Layer(LayerSpec):  # type: ignore[misc]
    """A layer that `PipelineModule` builds by calling `build_layer`."""

    def __init__(self, build_layer: Callable[[], nn.Module]) -> None:
        super().__init__(nn.Module)
        self.build_layer = build_layer

    def build(self, log: bool = False) -> nn.Module:
        """The layer, called by DeepSpeed for those of this pipeline stage."""
        return self.build_layer()


def build_pipeline(
    build_layers: Sequence[Callable[[], nn.Module]],
    costs: Sequence[float],
    mesh: ProcessMesh,
    trained: Sequence[bool] | None = None,
) -> Any:
    """This process's pipeline stage, a `PipelineModule`: only its own of `build_layers` are called."""
    with contextlib.redirect_stdout(io.StringIO()):
        return _Pipeline(
            pipeline_bounds(costs, mesh.pp_size, trained),
            layers=[_Layer(build_layer) for build_layer in build_layers],
            topology=mesh.grid.topology(),
            activation_checkpoint_interval=0,
        )
