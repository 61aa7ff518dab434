"""The engine: one object with `train_batch` and `eval_batch`, whatever the layout. DeepSpeed does the work."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import deepspeed  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.collectives import gather_vocabulary
from parallel.dropout import Dropout
from parallel.full_state import WEIGHTS, create_moments, gather, is_held, load_trainer_state, scatter, trainer_state
from parallel.mesh import ProcessMesh
from parallel.pipeline import build_pipeline, spread_nonfinite
from parallel.tensor_parallel import shard_of

MicroBatch = tuple[Tensor, Tensor]  # token ids and labels, [micro_batch, seq] each


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, the same on every process.

    loss: mean over the global batch's tokens; gradient_norm: global, before clipping;
    skipped: the step was not taken because the loss or a gradient was not finite;
    rescaled: it was fp16's search for a scale of the loss that made a gradient overflow, which is no fault.
    """

    loss: float
    gradient_norm: float
    skipped: bool
    rescaled: bool = False


class Stack(nn.Sequential):
    """All layers in one process, named as a pipeline names them; the last layer turns labels into the loss."""

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """ids and labels `[batch, seq]` -> the loss; without labels, the last layer's hidden states."""
        *body, head = self
        hidden_states = ids
        for layer in body:
            hidden_states = layer(hidden_states)
        output: Tensor = head(hidden_states, labels)
        return output if labels is None else spread_nonfinite(output)


class Engine:
    """A model, its optimizer and its layout, ready to train. Build it with `build_engine`."""

    def __init__(self, deepspeed_engine: Any, mesh: ProcessMesh, seed: int) -> None:
        self.deepspeed = deepspeed_engine
        self.seed = seed
        self.mesh = mesh
        self.dropouts = [module for module in deepspeed_engine.module.modules() if isinstance(module, Dropout)]

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches of one process in one optimizer step."""
        return int(self.deepspeed.gradient_accumulation_steps())

    @property
    def zero_stage(self) -> int:
        """What the replicas share (ZeRO, arXiv 1910.02054)."""
        return int(self.deepspeed.zero_optimization_stage())

    def set_lr(self, lr: float) -> None:
        """The rate of the next optimizer step."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr

    def train_batch(self, micro_batches: Iterator[MicroBatch]) -> StepResult:
        """Take `accumulation_steps` micro-batches of this process's replica, and one optimizer step."""
        self.deepspeed.train()
        for dropout in self.dropouts:
            dropout.begin_step(self.seed, self.deepspeed.global_steps, self.mesh)
        scale = self.deepspeed.optimizer.loss_scaler.cur_scale if self.deepspeed.fp16_enabled() else 1
        loss = self._forward_backward_step(micro_batches)
        norm = self.deepspeed.get_global_grad_norm()
        skipped = not self.deepspeed.was_step_applied()
        rescaled = skipped and math.isfinite(loss) and scale > 1
        return StepResult(float(loss), float("nan") if norm is None else float(norm), skipped, rescaled)

    def eval_batch(self, micro_batch: MicroBatch) -> float:
        """Summed cross-entropy in nats over the tokens that count in every replica's micro-batch."""
        self.deepspeed.eval()
        with torch.no_grad():
            loss = self._summed_loss(self._to_device(micro_batch))
        return float(self.mesh.all_reduce_dp(loss.detach().float().clone()))

    def next_token_logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits of the token after `positions` `[batch]` in `ids` `[batch, seq]`: `[batch, vocab]`, fp32, on the CPU.

        Every process calls it with the same ids and gets the whole vocabulary.
        """
        self.deepspeed.eval()
        with torch.no_grad():
            logits = self._logits(ids.to(self.mesh.device), positions.to(self.mesh.device))
        return torch.Tensor.cpu(logits)

    def _forward_backward_step(self, micro_batches: Iterator[MicroBatch]) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=self.mesh.device)
        for _ in range(self.accumulation_steps):
            loss = self.deepspeed(*self._to_device(next(micro_batches)))
            self.deepspeed.backward(loss)
            self.deepspeed.step()
            total += loss.detach()
        return self.mesh.all_reduce_dp(total) / (self.accumulation_steps * self.mesh.dp_size)

    def _summed_loss(self, micro_batch: MicroBatch) -> Tensor:
        return self.deepspeed(*micro_batch)  # type: ignore[no-any-return]

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        head, hidden_states = self.deepspeed.module[-1], self.deepspeed.module(ids)
        with deepspeed.zero.GatheredParameters(list(head.parameters()), enabled=self.zero_stage == 3):
            return gather_vocabulary(head.logits(hidden_states, positions), self.mesh.tp)

    def full_state(self, what: str = WEIGHTS) -> Iterator[tuple[str, Tensor | None]]:
        """Weights, or a moment of the optimizer, of this process's layers by name ("3.in_proj.weight"): whole, fp32.

        what: `WEIGHTS` or one of `MOMENTS`. Every process must run through it together. A layer's values are given, on
        the CPU, to one process, another one for the next layer; the others get None.
        """
        tp, mesh = self.mesh.tp, self.mesh
        for name, parameter in self.deepspeed.module.named_parameters():
            value = gather(self.deepspeed, parameter, what)
            shard = shard_of(parameter)
            if shard is not None:
                slices = [torch.empty_like(value) for _ in range(tp.size)]
                dist.all_gather(slices, value.contiguous(), group=tp.group)
                value = shard.join(slices)
            keep = tp.rank == 0 and mesh.dp_rank == int(name.partition(".")[0]) % mesh.dp_size
            yield name, value.float().cpu() if keep else None

    def load_full_state(self, what: str, read: Callable[[int], dict[str, Tensor]]) -> None:
        """Take up what `full_state` gave, under any layout. read: layer `index`'s values by their names in it.

        Weights go to the fp32 ones of the optimizer: the engine must have been built from them.
        """
        tp, current, layer = self.mesh.tp, "", {}
        for name, parameter in self.deepspeed.module.named_parameters():
            if is_held(parameter):
                index, _, rest = name.partition(".")
                if index != current:
                    current, layer = index, read(int(index))
                shard = shard_of(parameter)
                value = layer[rest] if shard is None else shard.slice(layer[rest], tp.rank, tp.size)
                scatter(self.deepspeed, parameter, what, value)

    @property
    def trainer_state(self) -> dict[str, Any]:
        """What belongs to the state beside the tensors: steps taken, and fp16's scale of the loss. JSON."""
        return trainer_state(self.deepspeed)

    @trainer_state.setter
    def trainer_state(self, saved: dict[str, Any]) -> None:
        load_trainer_state(self.deepspeed, saved)

    def _to_device(self, batch: MicroBatch) -> MicroBatch:
        ids, labels = batch
        return ids.to(self.mesh.device, non_blocking=True), labels.to(self.mesh.device, non_blocking=True)

    def destroy(self) -> None:
        """Free what the engine holds: the next stage builds its own."""
        self.deepspeed.destroy()


class PipelinedEngine(Engine):
    """An engine whose layers are spread over pipeline stages."""

    def _forward_backward_step(self, micro_batches: Iterator[MicroBatch]) -> Tensor:
        return self.deepspeed.train_batch(self._labelled(micro_batches))  # type: ignore[no-any-return]

    def _summed_loss(self, micro_batch: MicroBatch) -> Tensor:
        mean: Tensor = self._evaluate(
            self._labelled(iter([micro_batch]))
        )  # over the replicas, and on all of them: its sum is the sum
        return mean

    def _logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.deepspeed.module.labels = None
        _, hidden_states = self._evaluate(iter([(ids, ids)]), return_logits=True, compute_loss=False, bcast_loss=False)
        if not self.deepspeed.is_last_stage():
            return self.mesh.broadcast_from_last_pipeline_stage(None)
        head = self.deepspeed.module.forward_funcs[-1]
        return self.mesh.broadcast_from_last_pipeline_stage(
            gather_vocabulary(head.logits(hidden_states, positions), self.mesh.tp)
        )

    def _labelled(self, micro_batches: Iterator[MicroBatch]) -> Iterator[MicroBatch]:
        """Hand the labels to the module as each micro-batch is taken: its stage computes that one next."""
        for micro_batch in micro_batches:
            ids, labels = self._to_device(micro_batch)
            self.deepspeed.module.labels = labels
            yield ids, labels

    def _evaluate(self, micro_batches: Iterator[MicroBatch], **options: bool) -> Any:
        """`eval_batch` on one micro-batch, whose shape is its own: DeepSpeed keeps shapes and losses between calls."""
        self.deepspeed.reset_activation_shape()
        self.deepspeed.total_loss = None
        result = self.deepspeed.eval_batch(micro_batches, num_micro_batches=1, **options)
        self.deepspeed.reset_activation_shape()
        return result


def build_engine(
    builders: Sequence[partial[nn.Module]],
    initialise: Callable[[nn.Module, int], None],
    costs: Sequence[float],
    optimizer: Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer],
    config: dict[str, Any],
    mesh: ProcessMesh,
) -> Engine:
    """Build this process's layers, set their weights, and hand them to DeepSpeed.

    builders: the model, a builder a layer; initialise(layer, index): sets a built layer's weights; costs: what each
    layer weighs when a pipeline is cut; optimizer: makes it from (name, parameter) pairs; config: from
    `parallel.zero.deepspeed_config`.
    """
    if mesh.pp_size > 1:
        module = build_pipeline(builders, initialise, costs, mesh)
    else:
        module = Stack(*(builder() for builder in builders)).to(mesh.device)
        for index, layer in enumerate(module):
            initialise(layer, index)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer(list(module.named_parameters())),
        config=config,
        mpu=None if mesh.pp_size > 1 else mesh.grid,
    )
    create_moments(engine)
    if not config["zero_optimization"]["stage"]:
        _guard_plain_step(engine, mesh)
    else:
        _look_at_every_gradient(engine.optimizer)
    if engine.fp16_enabled():  # at the smallest scale a step is left out as any other, and train/health.py judges
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False
    return (PipelinedEngine if mesh.pp_size > 1 else Engine)(engine, mesh, config["seed"])


def _guard_plain_step(engine: Any, mesh: ProcessMesh) -> None:
    """Without ZeRO, clip fp32 gradients ourselves, keep their norm, and take no step where one is not finite.

    There DeepSpeed reports no norm, leaves parameters that tensor ranks share out of it on all pipeline stages but the
    first, and takes every step. A gradient that is not finite on one process only keeps all of them from the step.
    """
    optimizer = engine.optimizer
    take_step = optimizer.step

    def step(*_: Any) -> None:
        gradients = [(p, p.grad) for p in engine.module.parameters() if p.grad is not None]
        squares = [g.double().square().sum() for _, g in gradients]
        counted = [
            s for s, (p, _) in zip(squares, gradients, strict=True) if shard_of(p) is not None or not mesh.tp.rank
        ]
        zero = torch.zeros((), dtype=torch.float64, device=mesh.device)
        totals = torch.stack([torch.stack(counted or [zero]).sum(), torch.stack(squares or [zero]).sum() * 0])
        dist.all_reduce(totals, group=mesh.grid.get_model_parallel_group())
        dist.all_reduce(totals[1:], group=mesh.grid.get_data_parallel_group())
        norm = float(totals.sum().sqrt())  # the second is 0, or nan where any gradient anywhere is not finite
        engine._global_grad_norm = norm
        optimizer.overflow = not math.isfinite(norm)  # by this name DeepSpeed knows a step that was not taken
        if optimizer.overflow:
            return
        limit = engine.gradient_clipping()
        if 0 < limit < norm:
            torch._foreach_mul_([g for _, g in gradients], limit / norm)
        take_step()

    engine.clip_fp32_gradients = lambda: None
    optimizer.step = step


def _look_at_every_gradient(optimizer: Any) -> None:
    """With ZeRO, take no step where any gradient is not finite, in every precision.

    Of itself DeepSpeed looks at the norm only, to which one tensor rank adds what all of them share: ZeRO-1 and 2 in
    fp32, ZeRO-3 in fp32 and bf16.
    """
    optimizer.check_grad_overflow = True
    if hasattr(optimizer, "_overflow_check_and_loss_scale_update"):  # ZeRO-3; the scale is updated after the norm
        optimizer._overflow_check_and_loss_scale_update = lambda **_: optimizer.check_overflow()
