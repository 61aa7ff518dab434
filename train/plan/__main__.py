"""`python -m train.plan`: memory and traffic of a layout, computed without a GPU."""

import json
import os
import shlex
import sys
import warnings
from dataclasses import asdict, replace
from typing import Any

from conf.check import AUTO, check, data_parallel_size, gradient_accumulation_steps
from conf.choices import Balance
from conf.command_line import Command, run_command
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.run_folder import run_folder
from conf.save_time import WRITE_GB_PER_SECOND, checkpoint_bytes, save_seconds, warning_seconds
from conf.schema import Settings
from train.plan import GPUS_A_NODE
from train.plan.table import show, show_best

GIB = 2**30
COMMAND = Command(
    program="python -m train.plan",
    usage="[--json] [best=true] [gpus=N] [GROUP=CHOICE ...] [KEY=VALUE ...]",
    summary="Prints the layers, memory and traffic of every pipeline stage of a layout, and the time of a step, "
    "without a GPU. Where cluster.device_memory_gib is set and the layout does not fit, it names the nearest that does "
    "(exit code 2). gpus=N plans for N GPUs, in nodes of eight; best=true prints the five fastest layouts that fit, "
    "and the command for the first.",
    examples=(
        "python -m train.plan model=16b layout=a100_64 cluster.device_memory_gib=80",
        "python -m train.plan model=16b gpus=512 best=true",
        "python -m train.plan model=6b layout=a100_8 layout.zero_stage=3 --json",
    ),
    flags={"--json": "print every figure as JSON; memory in bytes"},
    groups=True,
)


def main(argv: list[str]) -> int:
    """Plan the run that `argv` describes and return the exit code: 2 for settings that are wrong or do not fit."""
    return run_command(print_plan, argv, COMMAND)


def print_plan(argv: list[str]) -> int:
    """Print the plan. Errors: `ConfigError` for settings that are wrong or do not fit the devices' memory."""
    flags, words = COMMAND.split_flags(argv)
    searches, words = with_best(words)
    overrides = with_gpus(words)
    settings = compose_settings(overrides)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # a plan needs no GPU, and DeepSpeed would look for one
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    from train.plan.planner import on_gpu, plan, world_size  # loads torch: only for settings that can run

    size = world_size(settings)
    if searches:
        return print_best(on_gpu(settings), size, overrides, "--json" in flags)
    try:
        settings = on_gpu(compose_settings(overrides, size))
    except ConfigError as error:  # the settings are right by themselves, and do not fit so many processes
        raise ConfigError(f"{error}; best=true looks for a layout of {size} GPUs that does") from None
    if settings.layout.micro_batch_size == AUTO:
        settings = with_micro_batch_size(settings, size)
    check(settings, size)
    stages = plan(settings, size)
    figures = summary(settings, size, stages)
    if "--json" in flags:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)
    refuse_what_does_not_fit(settings, size, stages)
    return 0


def with_best(words: list[str]) -> tuple[bool, list[str]]:
    """Whether `words` hold `best=true`, and the rest of them. Errors: `ConfigError` for another value."""
    given = [word.removeprefix("best=").lower() for word in words if word.startswith("best=")]
    if given and given[-1] not in ("true", "false"):
        raise ConfigError(f"best={given[-1]} must be true or false")
    return given[-1:] == ["true"], [word for word in words if not word.startswith("best=")]


def with_gpus(words: list[str]) -> list[str]:
    """`words` with `gpus=N` as the cluster's nodes and processes. Errors: `ConfigError` where N makes no nodes."""
    given = [word.removeprefix("gpus=") for word in words if word.startswith("gpus=")]
    overrides = [word for word in words if not word.startswith("gpus=")]
    if not given:
        return overrides
    count = int(given[-1]) if given[-1].isdigit() else 0
    if count < 1 or (count > GPUS_A_NODE and count % GPUS_A_NODE):
        raise ConfigError(f"gpus={given[-1]} must be 1 to {GPUS_A_NODE}, or a multiple of {GPUS_A_NODE}")
    per_node = min(count, GPUS_A_NODE)
    cluster = [] if any(word.startswith("cluster=") for word in overrides) else ["cluster=slurm_a100"]
    return [*overrides, *cluster, f"cluster.nodes={count // per_node}", f"cluster.processes_per_node={per_node}"]


def print_best(settings: Settings, size: int, overrides: list[str], as_json: bool = False) -> int:
    """Print the fastest layouts that fit, and the command of the first.

    Errors: `ConfigError` where none does, or memory is not known.
    """
    from train.plan.planner import usable_bytes
    from train.plan.search import fastest_layouts, settings_of

    memory = settings.cluster.device_memory_gib
    if memory is None:
        raise ConfigError(
            "best=true needs the memory of a GPU; add cluster.device_memory_gib=80, or cluster=slurm_a100"
        )
    found = fastest_layouts(settings, size, usable_bytes(memory))
    if not found:
        raise ConfigError(f"no layout of model={settings.model.name} fits {size} GPUs of {memory:g} GiB; use more")
    rows = [
        {**settings_of(each.layout), "step_seconds": each.time.total, "mfu": each.time.mfu, "memory": each.memory}
        for each in found
    ]
    words = [f"layout.{key}={str(value).lower()}" for key, value in settings_of(found[0].layout).items()]
    if settings.layout.data_parallel_size is not None:
        words.append("layout.data_parallel_size=null")
    command = shlex.join(["python", "-m", "launch", *overrides, *words])
    if as_json:
        print(json.dumps({"layouts": rows, "command": command}, indent=2))
    else:
        show_best(f"{settings.model.name} on {size} GPUs", rows, command)
    return 0


def with_micro_batch_size(settings: Settings, size: int) -> Settings:
    """`settings` with the micro-batch that `auto` would choose on GPUs of cluster.device_memory_gib."""
    from train.batch_size import choose_micro_batch_size
    from train.plan.planner import usable_bytes

    if settings.cluster.device_memory_gib is None:
        raise ConfigError("layout.micro_batch_size=auto: say for which memory with cluster.device_memory_gib=80")
    chosen = choose_micro_batch_size(settings, size, usable_bytes(settings.cluster.device_memory_gib))
    return replace(settings, layout=replace(settings.layout, micro_batch_size=chosen))


def refuse_what_does_not_fit(settings: Settings, size: int, stages: list[Any]) -> None:
    """Errors: `ConfigError` that names the fullest stage, what it needs, what there is, and what to set instead."""
    from train.plan.planner import nearest_layout, usable_bytes

    memory = settings.cluster.device_memory_gib
    if memory is None:
        return
    usable = usable_bytes(memory)
    worst = max(range(len(stages)), key=lambda stage: stages[stage].total)
    if stages[worst].total <= usable:
        return
    keys = nearest_layout(settings, size, usable)
    words = " ".join(f"layout.{key}={getattr(value, 'value', value)}" for key, value in (keys or {}).items())
    remedy = f"the nearest that fits: {words}" if keys else f"no small change fits on {size} GPUs; use more of them"
    raise ConfigError(
        f"layout={settings.layout.name} does not fit: pipeline stage {worst} needs {stages[worst].total / GIB:.1f} GiB "
        f"a GPU and {usable / GIB:.1f} of cluster.device_memory_gib={memory:g} can be filled; {remedy}"
    )


def summary(settings: Settings, size: int, stages: list[Any]) -> dict[str, Any]:
    """Every figure of the plan by name; memory in bytes on one GPU."""
    from model.flops import flops_per_token, parameters
    from parallel.pipeline import pipeline_bubble
    from train.plan.goodput import predict_goodput
    from train.plan.planner import usable_bytes
    from train.plan.published import compare_published
    from train.plan.speed import predict

    memory = settings.cluster.device_memory_gib
    layout, model = settings.layout, settings.model
    name, first = next(iter(settings.stages.items()))
    count = gradient_accumulation_steps(settings, first.global_batch_size, size)
    tokens = first.global_batch_size * model.context_length
    time, bubble = predict(settings, size), pipeline_bubble(len(stages), count)
    return {
        "model": model.name,
        "model_parameters": parameters(model),
        "layout": layout.name,
        "training_stage": name,
        "gpus": size,
        "tensor_parallel_size": layout.tensor_parallel_size,
        "sequence_parallel": layout.sequence_parallel,
        "pipeline_parallel_size": layout.pipeline_parallel_size,
        "data_parallel_size": data_parallel_size(settings, size),
        "zero_stage": layout.zero_stage,
        "offload": layout.offload.value,
        "recompute": layout.recompute.value,
        "precision": layout.precision.value,
        "balance": "flops" if layout.balance is Balance.time else layout.balance.value,
        "compiled": settings.kernels.compile,
        "checkpoint_bytes": checkpoint_bytes(model, settings.finetune),
        "save_seconds": save_seconds(model, WRITE_GB_PER_SECOND, settings.finetune),
        "goodput": predict_goodput(settings, size, time.total, run_folder(settings)),
        "warning_seconds": warning_seconds(settings, WRITE_GB_PER_SECOND),
        "optimizer_class": stages[0].states.optimizer_class,
        "micro_batch_size": layout.micro_batch_size,
        "micro_batches": count,
        "global_batch_size": first.global_batch_size,
        "tokens_per_step": tokens,
        "pipeline_bubble": bubble / (1 + bubble),
        "tflop_per_step_per_gpu": flops_per_token(model, settings.finetune) * tokens / size / 1e12,
        "seconds": {name: value for name, value in asdict(time).items() if name != "mfu"},
        "step_seconds": time.total,
        "mfu": time.mfu,
        "tokens_per_second": tokens / time.total,
        "stage_seconds": {  # at the first one's tokens/s
            name: stage.steps * time.total * stage.global_batch_size / first.global_batch_size
            for name, stage in settings.stages.items()
        },
        "published": compare_published(settings),
        "device_memory_gib": memory,
        "usable": None if memory is None else usable_bytes(memory),
        "pipeline_stages": [
            {
                "layers": [stage.first_layer, stage.end_layer],
                "parameters": stage.parameters,
                "weights": stage.states.weights,
                "gradients": stage.states.gradients,
                "optimizer": stage.states.optimizer,
                "in_flight": stage.in_flight,
                "activations": stage.activations,
                "loss": stage.micro_batch.loss,
                "working": stage.working,
                "optimizer_step": stage.states.optimizer_step_buffers,
                "initialization": stage.states.initialization,
                "total": stage.total,
                "host": stage.states.host,
                "collectives": {
                    kind: {"calls": calls or None, "bytes": size} for kind, (calls, size) in stage.collectives.items()
                },
            }
            for stage in stages
        ],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
