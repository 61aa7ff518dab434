"""Checks of a run's settings: the first problem becomes one line, before torch is loaded or a process is started.

Each message holds the setting's value, what is wrong with it, and what to set instead.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from conf.chat_templates import conversation_problems
from conf.choices import ClusterKind, Handover, Offload, Precision
from conf.data_problems import data_problems
from conf.errors import ConfigError
from conf.lora import lora_problems
from conf.mixture import mixture_problems
from conf.run_folder import name_problem
from conf.schema import ModelConfig, Settings, StageConfig
from conf.secrets import is_secret
from conf.sources import holds_weights, is_run

ABOVE_ZERO = {"join_seconds", "collective_seconds", "lock_seconds", "max_clock_skew_seconds", "shared_folder_seconds"}
AUTO = 0  # of layout.micro_batch_size, written `auto`: chosen when the run starts, from the memory there is
FP8_MULTIPLE = 16  # of every length that an fp8 product of a GPU sums over
LARGEST_SEED = 2**31  # torch's generator takes 32 bits; half of them are left to seeds that are counted up


def sampling_problems(
    prefix: str = "", *, temperature: float | None = None, top_p: float | None = None
) -> Iterator[str]:
    """What is wrong with sampling settings. prefix: of their keys, for the messages; None: not set, not checked."""
    if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
        yield f"{prefix}temperature={temperature} must be at least 0; 0 takes the most likely token"
    if top_p is not None and not 0 < top_p <= 1:
        yield f"{prefix}top_p={top_p} must be above 0 and at most 1; 1 keeps every token"


def divisors(number: int) -> str:
    """The divisors of `number` as text for a message: `1, 2 or 4`."""
    values = [str(value) for value in range(1, number + 1) if number % value == 0]
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def check(settings: Settings, world_size: int | None = None) -> None:
    """Raise `ConfigError` with the first thing that is wrong.

    world_size: number of processes; None: not known, and the checks that need it are left out.
    """
    own = chain(
        _finite(asdict(settings)), model_problems(settings.model), _stages(settings), mixture_problems(settings)
    )
    data = chain(data_problems(settings), lora_problems(settings), conversation_problems(settings))
    others = chain(_cluster(settings), _layout(settings, world_size), _numbers(settings))
    for problem in chain(own, data, others):
        raise ConfigError(problem)


def data_parallel_size(settings: Settings, world_size: int) -> int:
    """Number of model replicas among `world_size` processes."""
    return world_size // (settings.layout.tensor_parallel_size * settings.layout.pipeline_parallel_size)


def gradient_accumulation_steps(settings: Settings, global_batch_size: int, world_size: int) -> int:
    """Micro-batches that each replica runs in one optimizer step of `global_batch_size` sequences."""
    replicas = data_parallel_size(settings, world_size)
    return int(global_batch_size // (settings.layout.micro_batch_size * replicas))


def _finite(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _finite(value, f"{above}{name}.")
        elif isinstance(value, float) and not math.isfinite(value):  # every comparison with nan is false
            yield f"{above}{name}={value} must be a finite number"


def model_problems(model: ModelConfig) -> Iterator[str]:
    """What is wrong with the sizes of a model."""
    for name in ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "context_length"):
        if getattr(model, name) < 1:
            yield f"model.{name}={getattr(model, name)} must be at least 1"
            return
    if model.n_embd % model.n_head:
        yield f"model.n_head={model.n_head} does not divide model.n_embd={model.n_embd}; use {divisors(model.n_embd)}"
    if model.rotary_dim % 2 or model.rotary_dim > model.head_dim:
        yield (
            f"model.rotary_dim={model.rotary_dim} must be even and at most head_dim={model.head_dim} "
            f"(n_embd={model.n_embd} / n_head={model.n_head})"
        )
    if model.head_dim % 2:  # Triton's block middle reads each head in pairs
        yield f"model.n_head={model.n_head} makes head_dim={model.head_dim}, which must be even; use another n_head"
    if not 0 <= model.dropout < 1:
        yield f"model.dropout={model.dropout} must be at least 0 and below 1"
    if model.layer_norm_epsilon <= 0:
        yield f"model.layer_norm_epsilon={model.layer_norm_epsilon} must be positive"


def _stages(settings: Settings) -> Iterator[str]:
    if not settings.stages:
        yield "no stage is selected; say for example stage=[nl,multi,mono]"
    for name, stage in settings.stages.items():
        yield from _schedule(f"stages.{name}", stage)
        if stage.peak_learning_rate <= 0 or stage.end_learning_rate < 0:
            yield f"stages.{name}: peak_learning_rate must be positive and end_learning_rate not negative"
        if stage.end_learning_rate > stage.peak_learning_rate:
            yield (
                f"stages.{name}.end_learning_rate={stage.end_learning_rate} is above its "
                f"peak_learning_rate={stage.peak_learning_rate}"
            )
        if stage.init_from and not holds_weights(stage.init_from):
            yield (
                f"stages.{name}.init_from={stage.init_from} is no run, stage, imported or Hugging Face folder, "
                "and names on the hub are written owner/name"
            )
        elif stage.init_from and stage.handover is Handover.full and not is_run(Path(stage.init_from)):
            yield f"stages.{name}.handover=full needs a run's checkpoint; init_from={stage.init_from} has weights only"


def _schedule(key: str, stage: StageConfig) -> Iterator[str]:
    for name in ("tokens", "epochs", "patience"):
        value = getattr(stage, name)
        if value is not None and value <= 0:
            yield f"{key}.{name}={value} must be more than 0"
    for name in ("warmup_ratio", "anneal_ratio"):
        value = getattr(stage, name)
        if value is not None and not 0 <= value <= 1:
            yield f"{key}.{name}={value} must be at least 0 and at most 1, a share of the stage's steps"
    counted = stage.epochs is None or stage.steps  # epochs are not before the data is prepared
    if counted and stage.steps < 1:  # said first: phases that are shares of it are wrong with it
        yield f"{key}.steps={stage.steps} must be at least 1"
    for name in ("warmup_steps", "anneal_steps"):
        if getattr(stage, name) < 0:
            yield f"{key}.{name}={getattr(stage, name)} must not be negative"
    if not counted:
        return
    if stage.warmup_steps + stage.anneal_steps > stage.steps:
        yield (
            f"{key}.warmup_steps={stage.warmup_steps} and anneal_steps={stage.anneal_steps} are more than its "
            f"steps={stage.steps}, too few to reach end_learning_rate; use fewer, or warmup_ratio and anneal_ratio"
        )


def _cluster(settings: Settings) -> Iterator[str]:
    for name in ("nodes", "processes_per_node", "cpu_processes"):
        value = getattr(settings.cluster, name)
        if value is not None and value < 1:
            yield f"cluster.{name}={value} must be at least 1"
    for name, value in asdict(settings.cluster).items():
        if name in ABOVE_ZERO and value <= 0:
            yield f"cluster.{name}={value} must be more than 0"
        if name in ("grace_seconds", "restarts", "restart_seconds", "spares") and value < 0:
            yield f"cluster.{name}={value} must be 0 or more"
    for name in filter(is_secret, settings.cluster.slurm.environment):
        yield f"cluster.slurm.environment.{name} would be read by others; export it in the shell that submits"
    if not 0 < settings.cluster.port < 2**16:
        yield f"cluster.port={settings.cluster.port} must be between 1 and 65535"
    if settings.cluster.slurm.time.isdigit():  # YAML reads 12:00:00 without quotes as 43200, Slurm that as minutes
        yield f"cluster.slurm.time={settings.cluster.slurm.time} must be as 12:00:00; in a YAML file write it in quotes"
    if settings.cluster.kind is ClusterKind.local and settings.cluster.nodes != 1:
        yield f"cluster.nodes={settings.cluster.nodes} needs cluster=slurm or cluster=hostfile; this machine is one"


def _layout(settings: Settings, world_size: int | None) -> Iterator[str]:
    layout, model = settings.layout, settings.model
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "loss_chunk_tokens"):
        if getattr(layout, name) < 1:
            yield f"layout.{name}={getattr(layout, name)} must be at least 1"
    if layout.micro_batch_size < 1 and layout.micro_batch_size != AUTO:
        yield f"layout.micro_batch_size={layout.micro_batch_size} must be at least 1, or auto"
    for group in ("loss_scale", "zero"):
        for name, value in asdict(getattr(layout, group)).items():
            if value < 1:
                yield f"layout.{group}.{name}={value} must be at least 1"
    tensor, pipeline = layout.tensor_parallel_size, layout.pipeline_parallel_size
    divided = ["n_head", "vocab_size", *(["context_length"] if layout.sequence_parallel else [])]
    sizes = divisors(math.gcd(*(getattr(model, name) for name in divided)))
    for name in divided:
        if getattr(model, name) % tensor:
            why = ", which layout.sequence_parallel cuts" if name == "context_length" else ""
            yield (
                f"layout.tensor_parallel_size={tensor} does not divide model.{name}={getattr(model, name)}{why}; "
                f"use {sizes}"
            )
    if pipeline > model.n_layer:
        yield f"layout.pipeline_parallel_size={pipeline} is more than model.n_layer={model.n_layer}; use fewer stages"
    if layout.zero_stage not in (0, 1, 2, 3):
        yield f"layout.zero_stage={layout.zero_stage} does not exist; use 0, 1, 2 or 3"
    if pipeline > 1 and layout.zero_stage > 1:
        yield (
            f"layout.zero_stage={layout.zero_stage} does not work with pipeline_parallel_size={pipeline} "
            "(DeepSpeed keeps gradients whole between micro-batches); use zero_stage 0 or 1, or one pipeline stage"
        )
    if layout.zero_stage == 0 and layout.precision in (Precision.bf16, Precision.fp16, Precision.fp8):
        # and under tensor parallelism it leaves most of the slices out of the norm that clipping goes by
        yield (
            f"layout.zero_stage=0 does not work with layout.precision={layout.precision.value} (DeepSpeed adds up "
            "gradients in that precision, which loses digits); use zero_stage 1, 2 or 3, or fp32"
        )
    if layout.precision is Precision.fp8:
        for name, length in (
            ("model.n_embd / layout.tensor_parallel_size", model.n_embd // tensor),
            ("layout.micro_batch_size x model.context_length", layout.micro_batch_size * model.context_length),
        ):
            if length % FP8_MULTIPLE:
                yield f"layout.precision=fp8 needs {name}={length} to be a multiple of {FP8_MULTIPLE}, or use bf16"
    if layout.reduce_dtype not in (Precision.fp32, Precision.bf16):
        yield f"layout.reduce_dtype={layout.reduce_dtype.value} does not work; use fp32 or bf16"
    hpz = layout.zero.hpz_partition_size
    if hpz > 1 and (layout.zero_stage != 3 or tensor > 1 or (world_size or hpz) % hpz):
        yield (
            f"layout.zero.hpz_partition_size={hpz} needs zero_stage=3, tensor_parallel_size=1 and a multiple of {hpz} "
            "processes; use 1"
        )
    if layout.offload is Offload.parameters and layout.zero_stage != 3:
        yield f"layout.offload=parameters needs zero_stage=3, not {layout.zero_stage}"
    if layout.offload is Offload.optimizer and layout.zero_stage == 0:
        yield "layout.offload=optimizer needs zero_stage 1, 2 or 3, not 0"
    if world_size is not None:
        yield from _batches(settings, world_size)


def _batches(settings: Settings, world_size: int) -> Iterator[str]:
    layout = settings.layout
    ranks = layout.tensor_parallel_size * layout.pipeline_parallel_size
    if world_size % ranks:
        yield (
            f"{world_size} processes cannot be cut into tensor_parallel_size={layout.tensor_parallel_size} x "
            f"pipeline_parallel_size={layout.pipeline_parallel_size}; use a multiple of {ranks} processes"
        )
        return
    replicas = data_parallel_size(settings, world_size)
    if layout.data_parallel_size is not None and layout.data_parallel_size != replicas:
        yield (
            f"layout={layout.name} is for {ranks * layout.data_parallel_size} processes, and there are {world_size}; "
            f"set layout.data_parallel_size={replicas} or cluster.nodes and cluster.processes_per_node"
        )
        return
    unit = max(layout.micro_batch_size, 1) * replicas
    for name, stage in settings.stages.items():
        batch = stage.global_batch_size
        if batch < 1 or batch % unit:
            nearest = max(unit, round(batch / unit) * unit)
            yield (
                f"stages.{name}.global_batch_size={batch} is not a multiple of micro_batch_size="
                f"{max(layout.micro_batch_size, 1)} x {replicas} replicas; use {nearest}, or another micro_batch_size "
                "or number of processes"
            )


def _numbers(settings: Settings) -> Iterator[str]:
    if settings.evaluation.sample_tokens >= settings.model.context_length:
        yield (
            f"evaluation.sample_tokens={settings.evaluation.sample_tokens} leaves no room for a prompt in "
            f"model.context_length={settings.model.context_length}; use fewer"
        )
    optimizer, run = settings.optimizer, settings.run
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(optimizer, name) < 1:
            yield f"optimizer.{name}={getattr(optimizer, name)} must be at least 0 and below 1"
    for name in ("weight_decay", "gradient_clipping", "z_loss"):
        if getattr(optimizer, name) < 0:
            yield f"optimizer.{name}={getattr(optimizer, name)} must not be negative"
    if optimizer.epsilon <= 0:
        yield f"optimizer.epsilon={optimizer.epsilon} must be positive"
    if run.until is not None and run.until not in settings.stages:
        yield f"run.until={run.until} is not among the stages of this run ({', '.join(settings.stages)})"
    evaluation = settings.evaluation
    yield from sampling_problems(
        "evaluation.sample_", temperature=evaluation.sample_temperature, top_p=evaluation.sample_top_p
    )
    for name, task in evaluation.tasks.items():
        for key in ("every", "samples", "problems"):
            value = getattr(task, key)
            if value is not None and value < 1:
                yield f"evaluation.tasks.{name}.{key}={value} must be at least 1"
    if not 0 <= run.seed < LARGEST_SEED:
        yield f"run.seed={run.seed} must be at least 0 and below {LARGEST_SEED}"
    for key, value in (("name", run.name), ("group", run.group)):
        if problem := name_problem(f"run.{key}", value):
            yield problem
    if run.resume not in ("auto", "never"):
        yield f"run.resume={run.resume} is not known; use auto or never"
    health, threshold = settings.health, settings.tracking.straggler_threshold
    if min(threshold, health.hang_seconds, health.spike_deviations) <= 0:
        yield "tracking.straggler_threshold, health.hang_seconds and health.spike_deviations must be above 0"
    for group, least, names in (
        ("run", 1, ("save_every", "keep_checkpoints", "keep_every")),
        ("health", 1, ("bad_steps", "compare_every")),
        ("health", 0, ("rewinds",)),
        ("health", 2, ("spike_window",)),
        ("profile", 0, ("steps", "skip")),
        ("evaluation", 1, ("every", "batch_size", "sample_tokens")),
        ("tracking", 1, ("log_every",)),
    ):
        for name in names:
            value = getattr(getattr(settings, group), name)
            if value is not None and value < least:
                yield f"{group}.{name}={value} must be at least {least}"
