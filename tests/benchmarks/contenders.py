"""What `tests.benchmarks.peers` compares: each builds a model of one shape and returns a function that trains a step.

The peers are written as their users run them: fp32 weights under `torch.autocast` for bf16, torch's AdamW, whole
logits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from conf.choices import Precision
from conf.compose import compose_settings
from conf.schema import ModelConfig, Settings

Step = Callable[[Tensor], float]  # token ids [sequences, tokens + 1] -> the loss, an optimizer step later
RATE, DECAY, CLIPPING = 1e-4, 0.1, 1.0


@dataclass(frozen=True)
class Job:
    """sequences of `model.context_length` tokens an optimizer step, `micro_batch` of them at a time."""

    model: ModelConfig
    sequences: int
    micro_batch: int
    precision: Precision
    device: torch.device


def settings_of(job: Job, overrides: list[str]) -> Settings:
    """This stack's settings for `job`, with the loss and the clipping of the others."""
    settings = compose_settings(
        [
            *("model=350m", "optimizer.z_loss=0", f"optimizer.gradient_clipping={CLIPPING}"),
            *(f"layout.precision={job.precision.value}", f"layout.micro_batch_size={job.micro_batch}", *overrides),
        ]
    )
    return replace(settings, model=job.model)


def draw(module: nn.Module) -> None:
    """Set weights on the device that they are on: matrices from N(0, 0.02), norms to 1, biases to 0."""
    for name, value in module.named_parameters():
        if value.dim() > 1:
            nn.init.normal_(value, std=0.02)
        else:
            nn.init.constant_(value, float(name.endswith(("norm.weight", "ln_1.weight", "ln_f.weight"))))


def this_stack(job: Job, overrides: list[str]) -> Step:
    """This stack through its engine, DeepSpeed and all, on a process group of one."""
    from model.build import run_layers
    from model.flops import layer_flops
    from model.kernels import select_kernels
    from parallel.engine import build_engine
    from parallel.mesh import build_mesh
    from parallel.rendezvous import join
    from parallel.zero import deepspeed_config
    from train.optimizer import adamw

    join(collective_seconds=120.0)
    settings, mesh = settings_of(job, overrides), build_mesh(1, 1, False)
    engine = build_engine(
        run_layers(settings, mesh.tp, select_kernels(settings.kernels, mesh.device)),
        lambda layer, index: draw(layer),
        layer_flops(settings.model),
        partial(adamw, settings=settings.optimizer, n_layer=settings.model.n_layer),
        deepspeed_config(settings, job.sequences, 1, settings.layout.precision),
        mesh,
    )

    def step(rows: Tensor) -> float:
        engine.set_lr(RATE)
        return engine.train_batch((part[:, :-1], part[:, 1:]) for part in rows.split(job.micro_batch)).loss

    return step


def bare_loop(job: Job, overrides: list[str]) -> Step:
    """This stack's layers, loss and optimizer in a loop without an engine: fp32 copies of bf16 weights, clipping."""
    from model.build import run_layers
    from model.kernels import select_kernels
    from parallel.engine import Stack
    from parallel.mesh import TensorParallelGroup
    from train.optimizer import adamw

    settings, alone = settings_of(job, overrides), TensorParallelGroup()
    stack = Stack(*(build() for build in run_layers(settings, alone, select_kernels(settings.kernels, job.device))))
    stack = stack.to(job.device).train()
    draw(stack)
    masters = [(name, nn.Parameter(value.detach().clone())) for name, value in stack.named_parameters()]
    if job.precision is Precision.bf16:
        stack = stack.to(torch.bfloat16)
    optimizer, weights = adamw(masters, settings.optimizer, job.model.n_layer), list(stack.parameters())
    fp32 = [master for _, master in masters]

    def step(rows: Tensor) -> float:
        parts, total = rows.split(job.micro_batch), torch.zeros((), device=job.device)
        for part in parts:
            loss = stack(part[:, :-1], part[:, 1:]) / len(parts)
            loss.backward()
            total += loss.detach()
            for weight, master in zip(weights, fp32, strict=True):
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None
        nn.utils.clip_grad_norm_(fp32, CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_copy_([weight.data for weight in weights], [master.data for master in fp32])
        return float(total)

    return step


def hugging_face(job: Job, compile: bool) -> Step:
    """transformers' CodeGenForCausalLM."""
    from transformers import CodeGenForCausalLM

    from tests.twin import config_of

    with job.device:
        model = CodeGenForCausalLM(config_of(job.model)).train()
    draw(model)
    return _autocast_step(job, lambda ids: model(ids).logits, model, compile)


def plain_gpt(job: Job) -> Step:
    """A GPT in the fewest lines, as nanoGPT trains it: sequential blocks, fused attention, compiled as a whole."""
    with job.device:
        model = PlainGPT(job.model).train()
    draw(model)
    return _autocast_step(job, model, model, compile=True)


class PlainGPT(nn.Module):
    """`[batch, seq]` -> logits `[batch, seq, vocab]`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.context_length, config.n_embd)
        self.blocks = nn.Sequential(*(PlainBlock(config.n_embd, config.n_head) for _ in range(config.n_layer)))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden_states = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(hidden_states)))


class PlainBlock(nn.Module):
    """Attention, then the MLP, each with its norm and its residual."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.attention_out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc_in, self.fc_out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        return x + self.fc_out(nn.functional.gelu(self.fc_in(self.mlp_norm(x)), approximate="tanh"))


def _autocast_step(job: Job, logits: Callable[[Tensor], Tensor], model: nn.Module, compile: bool) -> Step:
    run = torch.compile(logits, dynamic=False) if compile else logits
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.999), weight_decay=DECAY, fused=True)
    half = torch.autocast(job.device.type, torch.bfloat16, enabled=job.precision is Precision.bf16)

    def losses(rows: Tensor) -> Iterator[Tensor]:
        parts = rows.split(job.micro_batch)
        for part in parts:
            with half:
                found = run(part[:, :-1])
            loss = nn.functional.cross_entropy(found.float().flatten(0, 1), part[:, 1:].flatten()) / len(parts)
            del found
            loss.backward()
            yield loss.detach()

    def step(rows: Tensor) -> float:
        total = sum(losses(rows), torch.zeros((), device=job.device))
        nn.utils.clip_grad_norm_(model.parameters(), CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    return step


PEERS: dict[str, Callable[[Job], Step]] = {
    "hf_eager": partial(hugging_face, compile=False),
    "hf_compiled": partial(hugging_face, compile=True),
    "plain_gpt": plain_gpt,
}
OWN: dict[str, Any] = {"this_stack": this_stack, "bare_loop": bare_loop}


def builder(name: str) -> Callable[[Job], Step]:
    """What builds the contender `name`; settings may follow ours: `this_stack:kernels=eager,layout.recompute=full`."""
    from tests.benchmarks.stacks import STACKS

    word, _, overrides = name.partition(":")
    if word in OWN:
        return partial(OWN[word], overrides=overrides.split(",") if overrides else [])
    return {**PEERS, **STACKS}[word]
