"""What every process of a parity world runs: a few optimizer steps of one small CodeGen under a given layout."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from conf.commands import Sampling
from conf.compose import compose_settings
from conf.schema import Settings
from model.build import run_layers
from model.flops import layer_flops
from model.init import init_layer
from model.kernels import select_kernels
from model.weights import Weights, load_layer
from parallel.engine import Engine, build_engine
from parallel.mesh import ProcessMesh
from parallel.zero import deepspeed_config
from tests.worlds import mesh_of
from train.optimizer import adamw
from train.validation import continue_prompts

STEPS, BATCH, RATE, SEED = 5, 8, 3e-3, 11
NEW_TOKENS = 5
SMALL_BUCKETS = [  # smaller than the model; ZeRO-3 partitions its matrices, and keeps its vectors whole
    "layout.zero.reduce_bucket_size=4000",
    "layout.zero.allgather_bucket_size=4000",
    "layout.zero.param_persistence_threshold=200",
    "layout.zero.prefetch_bucket_size=3000",
    "layout.zero.max_live_parameters=20000",
]


class Ids:
    """What sampling needs of a tokenizer where there is no text, and nothing ends it."""

    eos, vocab_size = -1, 96


def settings_of(overrides: list[str]) -> Settings:
    """Three blocks, so that a pipeline is uneven; a vocabulary with unused rows; clipping that is always active."""
    settings = compose_settings(
        [
            *("model=tiny", "kernels=reference", "layout.micro_batch_size=2", "optimizer.gradient_clipping=0.1"),
            *(
                "layout.precision=fp32",
                "optimizer.z_loss=0.0",
                "optimizer.epsilon=1e-6",
                "layout.loss_chunk_tokens=13",
                *SMALL_BUCKETS,
                *overrides,
            ),
        ]
    )
    shape = {"n_layer": 3, "n_embd": 32, "n_head": 4, "rotary_dim": 4, "vocab_size": 96, "context_length": 16}
    return replace(settings, model=replace(settings.model, **shape))


def batch(step: int, settings: Settings) -> torch.Tensor:
    """The global batch of a step, `[batch, seq + 1]`; only 90 of the 96 vocabulary rows occur."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randint(0, 90, (BATCH, settings.model.context_length + 1), generator=generator)


def engine_of(settings: Settings, mesh: ProcessMesh, weights: Weights | None = None) -> Engine:
    """The engine that the training loop would build."""

    def set_weights(layer: nn.Module, index: int) -> None:
        if weights is None:
            init_layer(layer, index, settings.model, mesh.tp, SEED)
        else:
            load_layer(weights, layer, index, mesh.tp)

    return build_engine(
        run_layers(settings, mesh.tp, select_kernels(settings.kernels, mesh.device)),
        set_weights,
        layer_flops(settings.model),
        partial(adamw, settings=settings.optimizer, n_layer=settings.model.n_layer),
        deepspeed_config(settings, BATCH, mesh.size, settings.layout.precision),
        mesh,
    )


def micro_batches(step: int, settings: Settings, mesh: ProcessMesh) -> Any:
    """This replica's share of the step's batch, as `train.data.batches` deals it out."""
    rows, size = batch(step, settings), settings.layout.micro_batch_size
    for start in range(mesh.dp_rank * size, BATCH, size * mesh.dp_size):
        part = rows[start : start + size]
        yield part[:, :-1], part[:, 1:]


def mesh_for(settings: Settings) -> ProcessMesh:
    """The world that the settings' layout asks for."""
    layout = settings.layout
    cut = (
        layout.tensor_parallel_size,
        layout.pipeline_parallel_size,
        layout.sequence_parallel,
        layout.tensor_parallel_overlap,
        layout.regather_sequence,
    )
    mesh: ProcessMesh = mesh_of(*cut)
    return mesh


def take_steps(engine: Engine, settings: Settings) -> dict[str, Any]:
    """Losses, gradient norms and final weights (on the processes that are given them) of `STEPS` steps."""
    results = []
    for step in range(STEPS):
        engine.set_lr(RATE)
        results.append(engine.train_batch(micro_batches(step, settings, engine.mesh)))
    return {
        "loss": [result.loss for result in results],
        "gradient_norm": [result.gradient_norm for result in results],
        "weights": {name: value for name, value in engine.full_state() if value is not None},
    }


def train(overrides: list[str]) -> dict[str, Any]:
    """What `take_steps` gives, with evaluation, logits and greedy samples after it."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    trained = take_steps(engine, settings)
    rows = batch(STEPS, settings)
    per_replica = BATCH // mesh.dp_size
    mine = rows[mesh.dp_rank * per_replica : (mesh.dp_rank + 1) * per_replica]
    summed = engine.eval_batch((mine[:, :-1], mine[:, 1:]))
    logits = engine.next_token_logits(rows[:2, :-1], torch.tensor([3, 9]))
    # Replicas have different prompts, and one of them fewer than the others.
    own = [row[:3].tolist() for row in mine[: max(1, per_replica - mesh.dp_rank)]]
    greedy = Sampling(NEW_TOKENS, temperature=0.0, top_p=1.0, top_k=0, seed=0)
    continued = continue_prompts(engine, own, greedy, [0] * len(own), Ids(), settings.model.context_length)  # type: ignore[arg-type]
    engine.destroy()
    return {
        **trained,
        "evaluation": summed,
        "logits": logits,
        "continued": {mesh.dp_rank * per_replica + row: ids for row, ids in enumerate(continued)},
    }
