"""The engine: `train_batch`, `eval_batch` and the whole state, the same under every layout. DeepSpeed does the work."""

import contextlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import deepspeed  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.collectives import gather_vocabulary
from parallel.deepspeed_internals import can_lower_loss_scale, device_of, guard_steps, state_layout
from parallel.dropout import Dropout
from parallel.full_state import (
    WEIGHTS,
    create_moments,
    gather,
    is_held,
    load_trainer_state,
    scatter,
    to_host,
    trained_parameters,
    trainer_state,
)
from parallel.mesh import ProcessMesh
from parallel.micro_batch import MicroBatch, label_weight
from parallel.overlapped_reduction import OverlappedReduction, bucket_parameter_groups
from parallel.pipeline import Documents, build_pipeline, run_layers, weigh_loss
from parallel.tensor_parallel import shard_of
from parallel.zero import prepare_layer, uses_bf16_optimizer


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, the same on every process.

    loss: mean over the global batch's labels that count; gradient_norm: global, before clipping;
    skipped: the step was not taken because the loss or a gradient was not finite;
    rescaled: it was fp16's search for a scale of the loss that made a gradient overflow, which is no fault.
    """

    loss: float
    gradient_norm: float
    skipped: bool
    rescaled: bool = False


class Stack(nn.Sequential):
    """All layers in one process, with the parameter names of a pipeline; the last is a `protocols.OutputLayer`."""

    documents: Documents | None = None  # what layers are given of a micro-batch's positions

    def forward(
        self,
        ids: Tensor,
        labels: Tensor | None = None,
        positions: Tensor | None = None,
        label_weight: Tensor | None = None,
    ) -> Tensor:
        """ids, labels, positions `[batch, seq]` -> the loss; without labels, the last layer's hidden states."""
        *body, head = self
        output: Tensor = head(run_layers(body, ids, positions, self.documents), labels)
        return output if labels is None else weigh_loss(output, label_weight)


class Engine:
    """A model and its optimizer under a layout without pipeline parallelism. Built by `build_engine`."""

    def __init__(
        self, deepspeed_engine: Any, mesh: ProcessMesh, seed: int, overlapped: OverlappedReduction | None = None
    ) -> None:
        self.deepspeed = deepspeed_engine
        self.seed = seed
        self.mesh = mesh
        self.overlapped = overlapped
        self.dropouts = [module for module in deepspeed_engine.module.modules() if isinstance(module, Dropout)]

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of one process in one optimizer step."""
        return int(self.deepspeed.gradient_accumulation_steps())

    @property
    def zero_stage(self) -> int:
        """ZeRO stage (arXiv 1910.02054): 0 none, 1 optimizer state, 2 gradients too, 3 weights too."""
        return int(self.deepspeed.zero_optimization_stage())

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next optimizer step."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr

    def train_batch(self, micro_batches: Iterator[MicroBatch]) -> StepResult:
        """Train one optimizer step on `accumulation_steps` micro-batches of this replica. Every process calls it.

        Every label of the step that counts weighs the same, wherever the others are.
        """
        self.deepspeed.train()
        for dropout in self.dropouts:
            dropout.begin_step(self.seed, self.deepspeed.global_steps, self.mesh)
        searching = can_lower_loss_scale(self.deepspeed)
        step = [MicroBatch(*next(micro_batches)) for _ in range(self.accumulation_steps)]
        loss = self._forward_backward_step(step, label_weight(step, self.mesh))
        norm = self.deepspeed.get_global_grad_norm()
        skipped = not self.deepspeed.was_step_applied()
        if norm is None and not skipped:
            raise RuntimeError("DeepSpeed took an optimizer step and reports no gradient norm; was it clipped?")
        rescaled = skipped and math.isfinite(loss) and searching
        return StepResult(float(loss), float("nan") if norm is None else float(norm), skipped, rescaled)

    def eval_batch(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Cross-entropy in nats, summed over all replicas' micro-batches; labels of `IGNORE_INDEX` do not count.

        Every process calls it, with as many of one shape, and gets the same value.
        """
        self.deepspeed.eval()
        with torch.no_grad():
            loss = self._summed_loss([MicroBatch(*micro_batch) for micro_batch in micro_batches])
        return float(self.mesh.all_reduce_dp(loss))

    def next_token_logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits of the token after `positions` `[batch]` in `ids` `[batch, seq]`: `[batch, vocab]`, fp32, on the CPU.

        Every process calls it, those of a replica with the same ids, and gets the whole vocabulary.
        """
        self.deepspeed.eval()
        with torch.no_grad():
            logits = self._logits(ids.to(self.mesh.device), positions.to(self.mesh.device))
        return torch.Tensor.cpu(logits)

    def _forward_backward_step(self, step: list[MicroBatch], weight: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=self.mesh.device)
        for micro_batch in step:
            loss = self.deepspeed(*micro_batch.to(self.mesh.device), weight)
            self.deepspeed.backward(loss)
            self.deepspeed.step()
            total += loss.detach()
        return self.mesh.all_reduce_dp(total) / (self.accumulation_steps * self.mesh.dp_size)

    def _summed_loss(self, micro_batches: list[MicroBatch]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.mesh.device)
        for micro_batch in micro_batches:
            total += self.deepspeed(*micro_batch.to(self.mesh.device))
        return total

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        head, hidden_states = self.deepspeed.module[-1], self.deepspeed.module(ids)
        with deepspeed.zero.GatheredParameters(list(head.parameters()), enabled=self.zero_stage == 3):
            return gather_vocabulary(head.logits(hidden_states, positions), self.mesh.tp)

    def full_state(self, what: str = WEIGHTS) -> Iterator[tuple[str, Tensor | None]]:
        """Trained weights, or a moment of AdamW, of this pipeline stage by name ("3.in_proj.weight"): whole, fp32, CPU.

        what: `WEIGHTS` or one of `MOMENTS`. Every process iterates over it together. One process gets a layer's values,
        the replicas in turn; the others get None.
        """
        tp, mesh = self.mesh.tp, self.mesh
        for name, parameter in trained_parameters(self.deepspeed.module):
            value = gather(self.deepspeed, parameter, what)
            shard = shard_of(parameter)
            if shard is not None:
                value = value.to(mesh.device).contiguous()  # NCCL takes no host tensors, where offloading keeps them
                slices = [torch.empty_like(value) for _ in range(tp.size)]
                dist.all_gather(slices, value, group=tp.group)
                value = shard.join(slices)
            keep = tp.rank == 0 and mesh.dp_rank == int(name.partition(".")[0]) % mesh.dp_size
            yield name, to_host(value) if keep else None

    def load_full_state(self, what: str, read: Callable[[int], dict[str, Tensor]]) -> None:
        """Set weights or a moment from whole tensors, which `full_state` of any layout returned.

        read: layer index -> its tensors by their names in the layer. Weights are set in the optimizer's fp32 copy: the
        engine must have been built from the same ones, or the copy that is computed with differs.
        """
        tp, current, layer = self.mesh.tp, "", {}
        for name, parameter in trained_parameters(self.deepspeed.module):
            if is_held(self.deepspeed, parameter):
                index, _, rest = name.partition(".")
                if index != current:
                    current, layer = index, read(int(index))
                shard = shard_of(parameter)
                value = layer[rest] if shard is None else shard.slice(layer[rest], tp.rank, tp.size)
                scatter(self.deepspeed, parameter, what, value)

    @property
    def trainer_state(self) -> dict[str, Any]:
        """The state beside the tensors, as JSON: steps taken, and fp16's loss scale."""
        return trainer_state(self.deepspeed)

    @trainer_state.setter
    def trainer_state(self, saved: dict[str, Any]) -> None:
        load_trainer_state(self.deepspeed, saved)

    def wait_for_weights(self) -> None:
        """Wait until the last step's weights are gathered: for whoever reads parameters outside of a forward pass."""
        if self.overlapped is not None:
            self.overlapped.wait()

    def destroy(self) -> None:
        """Free the engine's memory and hooks: the next training stage builds its own."""
        self.wait_for_weights()
        self.deepspeed.destroy()


class PipelinedEngine(Engine):
    """A model and its optimizer under a layout with pipeline parallelism."""

    def _forward_backward_step(self, step: list[MicroBatch], weight: Tensor) -> Tensor:
        self.deepspeed.module.label_weight = weight
        return self.deepspeed.train_batch(self._labelled(step))  # type: ignore[no-any-return]

    def _summed_loss(self, micro_batches: list[MicroBatch]) -> Tensor:
        # DeepSpeed returns the mean over micro-batches and replicas; `eval_batch` adds up what replicas have
        self.deepspeed.module.label_weight = None
        mean: Tensor = self._evaluate(self._labelled(micro_batches), len(micro_batches))
        return mean.detach().double() * len(micro_batches)

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.deepspeed.module.labels = None
        _, hidden_states = self._evaluate(
            iter([(ids, ids)]), 1, return_logits=True, compute_loss=False, bcast_loss=False
        )
        if not self.deepspeed.is_last_stage():
            return self.mesh.broadcast_from_last_pipeline_stage(None)
        head = self.deepspeed.module.forward_funcs[-1]
        return self.mesh.broadcast_from_last_pipeline_stage(
            gather_vocabulary(head.logits(hidden_states, positions), self.mesh.tp)
        )

    def _labelled(self, micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[Any, Tensor]]:
        """Set the module's labels as DeepSpeed takes each micro-batch, which it computes next."""
        for micro_batch in micro_batches:
            ids, labels, positions = micro_batch.to(self.mesh.device)
            self.deepspeed.module.labels = labels
            yield ids if positions is None else (ids, positions), labels

    def _evaluate(self, micro_batches: Iterator[tuple[Any, Tensor]], count: int, **options: bool) -> Any:
        """DeepSpeed's `eval_batch` on micro-batches of any one shape; it would keep that of the last call."""
        self.deepspeed.reset_activation_shape()
        self.deepspeed.total_loss = None
        result = self.deepspeed.eval_batch(micro_batches, num_micro_batches=count, **options)
        self.deepspeed.reset_activation_shape()
        return result


def build_engine(
    builders: Sequence[partial[nn.Module]],
    initialise: Callable[[nn.Module, int], None],
    costs: Sequence[float],
    optimizer: Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer],
    config: dict[str, Any],
    mesh: ProcessMesh,
    documents: Documents | None = None,
    trained: Sequence[bool] | None = None,
) -> Engine:
    """Build this process's layers one after the other, set their weights, and initialise DeepSpeed with them.

    builders: one a layer of the model; initialise(layer, index): sets a built layer's weights; costs: each layer's, to
    balance pipeline stages; optimizer: builds it from (name, parameter) pairs; config: from
    `parallel.zero.deepspeed_config`; documents: called with a micro-batch's positions, and every layer but the last is
    given the result, as `documents`; trained: of each layer, whether anything in it is (None: of all).
    Errors: TypeError where DeepSpeed chooses an optimizer class that is not known.
    """

    def build(index: int) -> nn.Module:
        layer = builders[index]().to(mesh.device)
        initialise(layer, index)
        return prepare_layer(layer, config, mesh)

    if mesh.pp_size > 1:
        module = build_pipeline([partial(build, index) for index in range(len(builders))], costs, mesh, trained)
    else:
        module = Stack(*(build(index) for index in range(len(builders))))
    module.documents = documents
    adamw, bf16_optimizer = optimizer(list(trained_parameters(module))), uses_bf16_optimizer(config)
    if bf16_optimizer:
        bucket_parameter_groups(adamw, config["zero_optimization"]["reduce_bucket_size"])
    with device_of(mesh), contextlib.redirect_stdout(io.StringIO()):  # BF16_Optimizer prints the memory in use
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            config=config,
            mpu=None if mesh.pp_size > 1 else mesh.grid,
        )
    state_layout(engine)  # or an error that names the class
    create_moments(engine)
    guard_steps(engine, mesh)
    if engine.fp16_enabled():  # at the smallest scale a step is left out as any other, and train/health.py judges
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    reduction = OverlappedReduction(engine, mesh) if bf16_optimizer else None
    return (PipelinedEngine if mesh.pp_size > 1 else Engine)(engine, mesh, config["seed"], reduction)
