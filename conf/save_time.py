"""How long a checkpoint takes to write, and so how long before its time limit a job must be told. No torch."""

import math
from pathlib import Path
from typing import Any

from conf.lora import adapter_parameters, is_lora
from conf.run_folder import STAGES, read_records
from conf.schema import FinetuneConfig, ModelConfig, Settings

SAVES = "saves.jsonl"  # below a stage's folder: what each save cost
BYTES_PER_PARAMETER = 12  # of a checkpoint: fp32 weights and two moments
WRITE_GB_PER_SECOND = 1.0  # of a run that has not saved yet: less than one node writes to a parallel file system
LEAST_WARNING_SECONDS = 120


def checkpoint_bytes(model: ModelConfig, finetune: FinetuneConfig | None = None) -> int:
    """Bytes of one checkpoint, which holds what is trained."""
    if finetune is not None and is_lora(finetune):
        return BYTES_PER_PARAMETER * adapter_parameters(model, finetune)
    d, vocabulary = model.n_embd, model.vocab_size
    block = 12 * d * d + 7 * d  # products of 7d and 5d columns; the MLP's two biases and the norm
    return BYTES_PER_PARAMETER * (model.n_layer * block + 2 * vocabulary * d + vocabulary + 2 * d)


def newest_save(run: Path) -> dict[str, Any] | None:
    """What the run's last checkpoint cost; None before its first."""
    files = sorted(run.glob(f"{STAGES}/*/{SAVES}"), key=lambda path: path.stat().st_mtime)
    records = read_records(files[-1]) if files else []
    return records[-1] if records else None


def write_gb_per_second(run: Path) -> float:
    """GB/s at which the run last wrote a checkpoint; `WRITE_GB_PER_SECOND` before its first."""
    save = newest_save(run)
    return WRITE_GB_PER_SECOND if save is None else float(save["gigabytes_per_second"])


def save_seconds(model: ModelConfig, gb_per_second: float, finetune: FinetuneConfig | None = None) -> float:
    """Seconds that writing one checkpoint takes."""
    return checkpoint_bytes(model, finetune) / 1e9 / max(gb_per_second, 1e-6)


def warning_seconds(settings: Settings, gb_per_second: float) -> int:
    """Seconds before its time limit at which a job is warned: as the settings say, or enough for a save in flight, the
    last one, and a minute for the step between them."""
    given = settings.cluster.slurm.signal_seconds
    if given is not None:
        return given
    needed = 60 + 2 * save_seconds(settings.model, gb_per_second, settings.finetune)
    return max(LEAST_WARNING_SECONDS, math.ceil(needed / 10) * 10)
