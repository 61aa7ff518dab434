"""Which setting a person meant by one that there is not."""

import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

GROUPS = {path.parent.name for path in Path(__file__).parent.glob("*/*.yaml")} - {"command"}  # conf/commands.py's own
SYNONYMS = {  # words of other trainers -> the setting here; STAGE is one of the stages
    "lr": "stages.STAGE.peak_learning_rate",
    "learning_rate": "stages.STAGE.peak_learning_rate",
    "max_lr": "stages.STAGE.peak_learning_rate",
    "min_lr": "stages.STAGE.end_learning_rate",
    "batch_size": "stages.STAGE.global_batch_size",
    "train_batch_size": "stages.STAGE.global_batch_size",
    "per_device_train_batch_size": "layout.micro_batch_size",
    "micro_batch": "layout.micro_batch_size",
    "max_steps": "stages.STAGE.steps",
    "train_iters": "stages.STAGE.steps",
    "num_train_epochs": "stages.STAGE.epochs",
    "num_epochs": "stages.STAGE.epochs",
    "warmup": "stages.STAGE.warmup_steps",
    "seq_len": "model.context_length",
    "seq_length": "model.context_length",
    "sequence_length": "model.context_length",
    "block_size": "model.context_length",
    "max_seq_len": "model.context_length",
    "hidden_size": "model.n_embd",
    "d_model": "model.n_embd",
    "num_layers": "model.n_layer",
    "n_layers": "model.n_layer",
    "num_heads": "model.n_head",
    "n_heads": "model.n_head",
    "dp": "layout.data_parallel_size",
    "tp": "layout.tensor_parallel_size",
    "pp": "layout.pipeline_parallel_size",
    "sp": "layout.sequence_parallel",
    "zero": "layout.zero_stage",
    "dtype": "layout.precision",
    "gradient_checkpointing": "layout.recompute",
    "activation_checkpointing": "layout.recompute",
    "lora_rank": "finetune.rank",
    "lora_r": "finetune.rank",
    "lora_alpha": "finetune.alpha",
    "load_in_4bit": "finetune.quantize",
    "target_modules": "finetune.targets",
    "wd": "optimizer.weight_decay",
    "grad_clip": "optimizer.gradient_clipping",
    "clip_grad": "optimizer.gradient_clipping",
    "max_grad_norm": "optimizer.gradient_clipping",
    "adam_beta1": "optimizer.beta1",
    "adam_beta2": "optimizer.beta2",
    "output_dir": "run.root",
    "out_dir": "run.root",
    "name": "run.name",
    "fp16": "layout.precision",
    "bf16": "layout.precision",
    "zero3": "layout.zero_stage",
    "num_gpus": "cluster.processes_per_node",
    "gpus": "cluster.processes_per_node",
    "logging_steps": "tracking.log_every",
    "eval_steps": "evaluation.every",
    "save_steps": "run.save_every",
    "log_interval": "tracking.log_every",
    "eval_interval": "evaluation.every",
    "save_interval": "run.save_every",
}
DERIVED = (  # words of other trainers for what follows from several settings here
    "gradient_accumulation_steps",
    "gradient_accumulation",
    "grad_accum",
)


def unknown(key: str, overrides: list[str]) -> str:
    """Name the setting that `key` may have meant, of the stages that `overrides` select."""
    with_defaults = compose("config", [])
    known, stages = list(keys(with_defaults)), list(with_defaults.stages)
    with suppress(HydraException, OmegaConfBaseException):
        stages = list(compose("config", [word for word in overrides if word.startswith("stage=")]).stages) or stages
    parts = key.split(".")
    if parts[0] == "stages" and len(parts) > 1 and parts[1] not in {*stages, *with_defaults.stages}:
        return (
            f"'{key}': {parts[1]} is no stage of this run ({', '.join(stages)}); select it by stage=..., or name these"
        )
    if key in known and key.startswith("stages."):
        return f"'{key}' belongs to a stage that is not selected; add it to stage=..."
    if key in known:
        return f"'{key}' takes new names one by one, as +{key}.NAME=VALUE"
    if key.rpartition(".")[2] in DERIVED:
        return (
            f"unknown setting '{key}'; it follows from stages.{stages[0]}.global_batch_size / (layout.micro_batch_size "
            "x replicas): set one of these"
        )
    meant = _meant(key, known, stages[0])
    return f"unknown setting '{key}'; " + (f"did you mean '{meant}'?" if meant else "see conf/ for those there are")


def _meant(key: str, known: list[str], stage: str) -> str | None:
    """A synonym of another trainer's, a setting whose last word is `key`'s, or the closest spelling."""
    word = key.rpartition(".")[2]
    parts = key.split(".")
    if parts[0] == "stages" and len(parts) > 2:
        stage = parts[1]
    if word in SYNONYMS:
        return SYNONYMS[word].replace("STAGE", stage)
    if "." not in key:
        ending = [name for name in known if name.rpartition(".")[2] == word and not name.startswith("recipe.")]
    else:
        ending = [name for name in known if name.rpartition(".")[2] == word and name.startswith(f"{parts[0]}.")]
    if ending:
        first = re.sub(r"^stages\.\w+\.", f"stages.{stage}.", ending[0])
        return re.sub(r"^data\.corpora\.\w+\.", "data.corpora.NAME.", first)
    close = difflib.get_close_matches(key, [*known, *sorted(GROUPS)], n=1, cutoff=0.6)
    return close[0] if close else None


def keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Every key of `config`, dotted, without resolving what it holds."""
    for name, value in config.items_ex(resolve=False):
        yield f"{prefix}{name}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{name}.")
