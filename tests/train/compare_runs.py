"""Writes run folders like those of training, with synthetic metrics, for comparisons of many runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.compose import compose_settings, load_settings
from conf.run_folder import run_folder, save_settings, write_json
from model.flops import flops_per_token
from model.weights import Weights
from train.stages import lineage

LONG = "ablation-of-rotary-dimension-and-initial-scale-with-warm-up-over-2000-steps-seed"


def write_run(
    root: Path, name: str, *overrides: str, stages: str = "nl,multi,mono", level: float = 2.0, **change: Any
) -> Path:
    """Write a finished run of `stages` whose losses end near `level`, and return its folder.

    overrides: further settings. change: `records` of each stage (40), `upto` (records of the last stage, for an
    interrupted run), `old` (records without time and FLOPs, as older versions wrote).
    """
    count = change.get("records", 40)
    sizes = [f"stages.{stage}.steps={10 * count}" for stage in stages.split(",")]
    sizes += [f"stages.{stage}.warmup_steps=2" for stage in stages.split(",")]
    settings = compose_settings([f"run.root={root}", f"stage={stages}", *sizes, *overrides])
    settings = replace(settings, run=replace(settings.run, name=name))  # older versions took any name
    folder = run_folder(settings)
    save_settings(settings, folder)
    rows: list[dict[str, Any]] = []
    for order, (stage, options) in enumerate(settings.stages.items()):
        last = order == len(settings.stages) - 1
        there = change.get("upto", count) if last else count
        per_step = options.global_batch_size * settings.model.context_length
        for number in range(1, there + 1):
            step = 10 * number
            loss = level + 4 * math.exp(-number / 8) / (order + 1) + 0.03 * math.sin(7 * number + level)
            tokens = step * per_step
            at = {"flops": tokens * flops_per_token(settings.model), "seconds": step * 3.0, "devices": 8}
            row = {
                "stage": stage,
                "step": step,
                "loss": loss,
                "learning_rate": 1e-4,
                "gradient_norm": 1.0,
                "skipped": False,
            }
            row |= {"tokens": tokens, "tokens_per_second": per_step / 3, "mfu": 0.4, "memory_bytes": 2**30}
            rows.append(row if change.get("old") else row | at)
            if number % 10 == 0:
                scores = {f"bits_per_byte/{corpus}": loss / 3 for corpus in settings.data.corpora}
                rows.append(
                    {"stage": stage, "step": step, "tokens": tokens, **scores, **({} if change.get("old") else at)}
                )
        if there == count:
            parent = _parent(folder, stage, settings)
            write_json(folder / "stages" / stage / "lineage.json", lineage(folder, stage, parent, settings))
            scores = dict.fromkeys(settings.data.corpora, level / 3)
            write_json(
                folder / "stages" / stage / "evaluation.json", {"stage": stage, "order": order, "bits_per_byte": scores}
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_twelve(root: Path) -> list[Path]:
    """Twelve runs with long names that differ in two settings."""
    return [
        write_run(
            root,
            f"{LONG}-{number}" + "x" * (number % 4) * 20,
            f"optimizer.weight_decay={0.1 * (1 + number % 3):.1f}",
            f"stages.nl.peak_learning_rate={(6 + number) * 1e-4:.4f}",
            level=1.5 + 0.12 * number,
        )
        for number in range(12)
    ]


def _parent(folder: Path, stage: str, settings: Any) -> Weights | None:
    """Like `train.stages.parent_of`, which needs weights on disk."""
    source = settings.stages[stage].init_from
    if source:
        return _weights(
            Path(source) / "stages" / list(load_settings(Path(source) / "config.yaml").stages)[-1], settings
        )
    names = list(settings.stages)
    before = names.index(stage) - 1
    return _weights(folder / "stages" / names[before], settings) if before >= 0 else None


def _weights(stage: Path, settings: Any) -> Weights:
    return Weights(str(stage), stage, settings.model, None, "made up", lambda index: {})
