"""Whole stacks that `tests.benchmarks.peers` can compare, each through its own model, loss and optimizer.

They are not in requirements.txt. One that is not installed is named in its row of the table, with what installs it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from conf.choices import Precision
from tests.benchmarks.contenders import CLIPPING, DECAY, RATE, Job, Step

BETAS = (0.9, 0.999)


def olmo_core(job: Job) -> Step:
    """OLMo-core's train module, compiled as its scripts compile it: fp32 weights under autocast for bf16.

    Its blocks differ: RMSNorm, rotary positions in whole heads, no biases, and a gated MLP, here of width 8d/3: as many
    weights and products as the 4d of the others. Its train module compiles on GPUs alone; its model, as here, anywhere.
    """
    try:
        from olmo_core.config import DType
        from olmo_core.nn.feed_forward import ActivationFunction
        from olmo_core.nn.transformer import TransformerConfig
        from olmo_core.optim import AdamWConfig
        from olmo_core.train.train_module import TransformerTrainModuleConfig
    except ImportError as error:
        raise SystemExit(f"olmo_core does not import ({error}); pip install ai2-olmo-core") from error

    context = job.model.context_length
    shape = TransformerConfig.llama_like(
        d_model=job.model.n_embd,
        vocab_size=job.model.vocab_size,
        n_layers=job.model.n_layer,
        n_heads=job.model.n_head,
        hidden_size_multiple_of=64,
    )
    shape.block.feed_forward.activation = ActivationFunction.gelu_tanh
    model = shape.build(init_device="meta")
    model.apply_compile()
    train = TransformerTrainModuleConfig(
        rank_microbatch_size=job.micro_batch * context,
        max_sequence_length=context,
        optim=AdamWConfig(lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True),
        max_grad_norm=CLIPPING,
        autocast_precision=DType.bfloat16 if job.precision is Precision.bf16 else None,
    ).build(model, device=job.device)
    recorded = Recorded()
    train._attach_trainer(recorded)

    def step(rows: Tensor) -> float:
        train.zero_grads()
        train.train_batch({"input_ids": rows[:, :-1], "labels": rows[:, 1:]})
        train.optim_step()
        return float(recorded.loss)

    return step


class Recorded:
    """What OLMo-core's train module asks of a trainer."""

    loss: Tensor

    def record_ce_loss(self, value: Tensor, reduce_type: Any = None) -> None:
        self.loss = value

    def record_metric(self, name: str, value: Any, **how: Any) -> None: ...


def megatron_core(job: Job) -> Step:
    """Megatron-Core's GPTModel of its local layers, with its schedule and its optimizer: bf16 weights, fp32 gradients.

    Learned positions, LayerNorm, biases, a GELU MLP of 4d; what needs no extension is fused. Without Transformer Engine
    its attention writes out the scores. Its schedule and its optimizer run on GPUs alone.
    """
    try:
        from megatron.core import parallel_state
        from megatron.core.distributed import (
            DistributedDataParallel,
            DistributedDataParallelConfig,
            finalize_model_grads,
        )
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.pipeline_parallel import get_forward_backward_func
        from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
        from megatron.core.transformer.module import Float16Module
    except ImportError as error:
        raise SystemExit(f"megatron_core does not import ({error}); pip install megatron-core") from error
    from parallel.rendezvous import join

    if job.device.type != "cuda":
        raise SystemExit("megatron_core trains on GPUs alone, and this machine has none that torch sees")
    join(collective_seconds=120.0)
    parallel_state.destroy_model_parallel()  # of a larger micro-batch, with its buffer
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    model_parallel_cuda_manual_seed(0)
    half = job.precision is Precision.bf16
    gpt = megatron_gpt(job, half).to(job.device)
    config = gpt.config
    buckets = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
    model = DistributedDataParallel(config, buckets, Float16Module(config, gpt) if half else gpt)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            lr=RATE,
            weight_decay=DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            clip_grad=CLIPPING,
            bf16=half,
            params_dtype=config.params_dtype,
        ),
        [model],
        use_gloo_process_groups=False,
    )
    config.grad_scale_func = optimizer.scale_loss
    config.finalize_model_grads_func = finalize_model_grads
    context = job.model.context_length
    positions = torch.arange(context, device=job.device).expand(job.micro_batch, -1)

    def forward(parts: Iterator[Tensor], model: torch.nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
        part = next(parts)
        return model(part[:, :-1], positions, None, labels=part[:, 1:].contiguous()), mean

    def mean(losses: Tensor) -> tuple[Tensor, Tensor]:
        loss = losses.float().mean()
        return loss, loss.detach().clone()  # the schedule divides the first in place

    def step(rows: Tensor) -> float:
        parts = rows.split(job.micro_batch)
        model.zero_grad_buffer()
        optimizer.zero_grad()
        losses = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter(parts),
            model=[model],
            num_microbatches=len(parts),
            seq_length=context,
            micro_batch_size=job.micro_batch,
            forward_only=False,
        )
        optimizer.step()
        return float(torch.stack(losses).mean())

    return step


def megatron_gpt(job: Job, half: bool) -> Any:
    """The model alone, which is all of it that a CPU can hold."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=job.model.n_layer,
        hidden_size=job.model.n_embd,
        num_attention_heads=job.model.n_head,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=True,
        bias_dropout_fusion=True,
        cross_entropy_loss_fusion=True,
        attention_softmax_in_fp32=False,  # the sums are in fp32 all the same, and no copy of the scores is
        bf16=half,
        params_dtype=torch.bfloat16 if half else torch.float32,
        use_cpu_initialization=job.device.type == "cpu",
    )
    return GPTModel(config, get_gpt_layer_local_spec(), job.model.vocab_size, job.model.context_length)


STACKS: dict[str, Callable[[Job], Step]] = {"olmo_core": olmo_core, "megatron_core": megatron_core}
