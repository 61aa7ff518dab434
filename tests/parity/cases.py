"""What every process of a parity world runs: a few optimizer steps of one small CodeGen under a given layout."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.accelerator import get_accelerator  # type: ignore[import-untyped]
from torch import nn

from conf.choices import IGNORE_INDEX, InfillUnit, Objective
from conf.commands import Sampling
from conf.compose import compose_settings
from conf.lora import trained_layers
from conf.schema import DataConfig, ModelConfig, RunConfig, Settings
from model.build import run_layers
from model.flops import layer_flops
from model.init import init_layer
from model.kernels import select_kernels
from model.lora import quantize_frozen
from model.weights import Weights, load_layer
from parallel.engine import Engine, build_engine
from parallel.mesh import ProcessMesh
from parallel.micro_batch import MicroBatch
from parallel.zero import deepspeed_config
from tests.worlds import mesh_of
from train.data.best_fit import BestFitDataset, write_plan
from train.data.infill import training_tokens, write_infill
from train.data.token_file import TokenFileWriter
from train.optimizer import adamw
from train.validation import continue_prompts

STEPS, BATCH, RATE, SEED = 5, 8, 3e-3, 36
NEW_TOKENS = 5
EOS = 90  # of documents in CodeGen2's form
FP16 = ["layout.precision=fp16"]
SMALL_BUCKETS = [  # smaller than the model; ZeRO-3 partitions its matrices, and keeps its vectors whole
    "layout.zero.reduce_bucket_size=4000",
    "layout.zero.allgather_bucket_size=4000",
    "layout.zero.param_persistence_threshold=200",
    "layout.zero.prefetch_bucket_size=3000",
    "layout.zero.max_live_parameters=20000",
]


Form = Callable[[torch.Tensor], MicroBatch]  # rows `[batch, seq + 1]` as training reads them


class Ids:
    """What sampling needs of a tokenizer where there is no text, and nothing ends it."""

    vocab_size = 96

    def __init__(self, eos: int = -1, special_tokens: dict[str, int] | None = None) -> None:
        self.eos, self.special_tokens = eos, special_tokens or {}


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
    if settings.finetune.quantize is not None:
        shape["n_embd"] = 128  # two ranks' parts are whole blocks
    return replace(settings, model=replace(settings.model, **shape))


def batch(step: int, settings: Settings) -> torch.Tensor:
    """The global batch of a step, `[batch, seq + 1]`; only 90 of the 96 vocabulary rows occur."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randint(0, 90, (BATCH, settings.model.context_length + 1), generator=generator)


DOCUMENTS = [(16,), (5, 11), (1, 7, 8), (3, 3, 4), (9,), (2, 1), (4, 4, 4, 4), (10, 5)]  # tokens, by row of a batch


def packed(rows: torch.Tensor) -> MicroBatch:
    """`rows` `[batch, seq + 1]` as the documents of `DOCUMENTS`, and after them padding without labels.

    Replicas and micro-batches have unequal numbers of labels.
    """
    ids, labels = rows[:, :-1], rows[:, 1:].clone()
    positions = torch.zeros_like(ids, dtype=torch.int32)
    for row in range(len(rows)):
        lengths = DOCUMENTS[row % BATCH]
        labels[row, sum(lengths) :] = IGNORE_INDEX
        positions[row] = torch.cat([torch.arange(n) for n in (*lengths, ids.shape[1] - sum(lengths))])
    return MicroBatch(ids, labels, positions)


def infilled(rows: torch.Tensor) -> MicroBatch:
    """What data.objective=infill makes of `rows` `[batch, seq + 1]`, each two documents, packed whole: `[batch, seq]`.

    The first document of a row is in CodeGen2's form where its draw says so; ids from 90 on are the form's.
    """
    data = DataConfig(objective=Objective.infill, infill_fraction=0.5, infill_span=0.5, infill_unit=InfillUnit.token)
    model = ModelConfig(context_length=rows.shape[1] - 1)
    tokenizer = Ids(EOS, {"<mask_1>": 91, "<sep>": 92, "<eom>": 93})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.bin"
        with TokenFileWriter(path, "<u2") as file:
            file.write([EOS])
            for row in rows.tolist():
                file.write([*row[:9], EOS, *row[9:14], EOS])
        settings = Settings(model=model, data=data, run=RunConfig(seed=SEED))
        write_infill(path, "<u2", settings, tokenizer)  # type: ignore[arg-type]
        read = training_tokens(path, settings)
        write_plan(read, "<u2", model.context_length)
        packed = BestFitDataset(read, "<u2", model.context_length, document_mask=True)
        samples = [packed[index] for index in range(len(rows))]
    return MicroBatch(*(torch.stack([torch.as_tensor(one) for one in each]) for each in zip(*samples, strict=True)))


def conversations(rows: torch.Tensor) -> MicroBatch:
    """As `packed`, with labels for some tokens of each document only; a few have none at all."""
    ids, labels, positions = packed(rows)
    return MicroBatch(ids, labels.masked_fill(~learnt(labels), IGNORE_INDEX), positions)


def learnt(labels: torch.Tensor) -> torch.Tensor:
    """Whether each label is the assistant's, in the parity runs."""
    return labels % 5 > 2


def plain(rows: torch.Tensor) -> MicroBatch:
    """`rows` `[batch, seq + 1]`, every token seeing all before it."""
    return MicroBatch(rows[:, :-1], rows[:, 1:])


def engine_of(settings: Settings, mesh: ProcessMesh, weights: Weights | None = None) -> Engine:
    """The engine that the training loop would build."""

    def set_weights(layer: nn.Module, index: int) -> None:
        if weights is None:
            init_layer(layer, index, settings.model, mesh.tp, SEED)
        else:
            load_layer(weights, layer, index, mesh.tp)
        quantize_frozen(layer, settings.finetune)

    kernels = select_kernels(settings.kernels, mesh.device)
    return build_engine(
        run_layers(settings, mesh.tp, kernels),
        set_weights,
        layer_flops(settings.model),
        partial(adamw, settings=settings.optimizer, n_layer=settings.model.n_layer),
        deepspeed_config(settings, BATCH, mesh.size, settings.layout.precision),
        mesh,
        kernels.documents,
        trained_layers(settings),
    )


def micro_batches(step: int, settings: Settings, mesh: ProcessMesh, form: Form = plain) -> Iterator[MicroBatch]:
    """This replica's share of the step's batch, as `train.data.batches` deals it out."""
    whole, size = form(batch(step, settings)), settings.layout.micro_batch_size
    for start in range(mesh.dp_rank * size, BATCH, size * mesh.dp_size):
        yield rows_of(whole, start, start + size)


def rows_of(whole: MicroBatch, start: int, stop: int) -> MicroBatch:
    """Rows [start, stop) of a batch."""
    return MicroBatch(*(None if each is None else each[start:stop] for each in whole))  # type: ignore[arg-type]


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


def take_steps(engine: Engine, settings: Settings, form: Form = plain) -> dict[str, Any]:
    """Losses, gradient norms and final weights (on the processes that are given them) of `STEPS` steps."""
    results = []
    for step in range(STEPS):
        engine.set_lr(RATE)
        results.append(engine.train_batch(micro_batches(step, settings, engine.mesh, form)))
    return {
        "loss": [result.loss for result in results],
        "gradient_norm": [result.gradient_norm for result in results],
        "weights": {name: value for name, value in engine.full_state() if value is not None},
    }


def half(case: Callable[..., Any], *arguments: Any) -> Any:
    """`case` in fp16. torch computes in it on any CPU; DeepSpeed only asks whether it is fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
        return case([*FP16, *arguments[0]], *arguments[1:])


def train_documents(overrides: list[str]) -> dict[str, Any]:
    """As `train`, on documents that do not see each other."""
    return train(overrides, packed)


def train_infilled(overrides: list[str]) -> dict[str, Any]:
    """As `train`, on documents of which some are in CodeGen2's form."""
    return train(overrides, infilled)


def train_conversations(overrides: list[str]) -> dict[str, Any]:
    """As `train_documents`, on conversations of which only what the assistant wrote is learnt."""
    return train(overrides, conversations)


def train(overrides: list[str], form: Form = plain) -> dict[str, Any]:
    """What `take_steps` gives, with evaluation, logits and greedy samples after it."""
    settings = settings_of(overrides)
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    trained = take_steps(engine, settings, form)
    rows = batch(STEPS, settings)
    per_replica = BATCH // mesh.dp_size
    mine = rows[mesh.dp_rank * per_replica : (mesh.dp_rank + 1) * per_replica]
    first = mesh.dp_rank * per_replica
    summed = engine.eval_batch([rows_of(form(rows), row, row + 1) for row in range(first, first + per_replica)])
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
