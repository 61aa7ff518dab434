"""The records of a stage: one dictionary per record, to metrics.jsonl, to W&B and, shortened, to the log.

Reports and comparisons read the same records from metrics.jsonl.
"""

import contextlib
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.duration import format_duration
from conf.resume import read_extensions, samples_done
from conf.run_folder import ENVIRONMENT, METRICS, append_records, read_json, repair_records, wandb_id
from conf.schema import Settings, plain
from model.flops import flops_per_token
from parallel.engine import StepResult
from train.context import RunContext
from train.hardware import measured_tflops, peak_memory_bytes


class Meter:
    """Measures tokens and seconds from one record to the next, without evaluation and saving."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.straggler, self.times_slowest = -1, 0
        self.ranks: dict[str, list[float]] = {}
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.started, self.steps, self.sequences = time.perf_counter(), 0, 0

    def count(self, sequences: int) -> None:
        """Count an optimizer step of `sequences` sequences."""
        self.steps += 1
        self.sequences += sequences

    def read(self) -> dict[str, float]:
        """Speed of the interval; begins a new one. TFLOP/s and MFU are of one device. Every process calls it.

        Ranks wait for each other in every step, so the step time does not show which one is slow: each rank times a
        matrix product of its own. `compute_spread` is how much slower than the median rank the slowest one is.
        """
        seconds, model, mesh = time.perf_counter() - self.started, self.context.settings.model, self.context.mesh
        tokens_per_second = self.sequences * model.context_length / seconds
        tflops = tokens_per_second * flops_per_token(model) / mesh.size / 1e12
        own = measured_tflops(mesh.device, self.context.precision, small=True)
        memory, speeds, hosts = zip(
            *mesh.all_gather_object((float(peak_memory_bytes(mesh.device)), own, platform.node())), strict=True
        )
        self.ranks = {"rank_memory_bytes": list(memory), "rank_tflops": [round(speed, 3) for speed in speeds]}
        slowest = speeds.index(min(speeds))
        spread = statistics.median(speeds) / speeds[slowest] - 1
        self._watch(slowest, spread, hosts[slowest])
        step_seconds = seconds / max(self.steps, 1)
        self.restart()
        return {
            "tokens_per_second": tokens_per_second,
            "tflops_per_device": tflops,
            "mfu": tflops / self.context.peak_tflops,
            "memory_bytes": max(memory),
            "memory_bytes_min": min(memory),
            "step_seconds": step_seconds,
            "compute_spread": spread,
            "slowest_rank": slowest,
        }

    def _watch(self, slowest: int, spread: float, host: str) -> None:
        """Warn of a rank that was the slowest, by more than the threshold, in three readings in a row."""
        threshold = self.context.settings.tracking.straggler_threshold
        again = spread > threshold and slowest == self.straggler
        self.times_slowest = self.times_slowest + 1 if again else 1
        self.straggler = slowest if spread > threshold else -1
        if self.straggler >= 0 and self.times_slowest == 3:
            self.context.log(f"warning: rank {slowest} on {host} computes {spread:.0%} slower than the median rank")


class Tracker:
    """Writes the records of one stage, on the main process; on the others `folder` is None and nothing is written.

    rows: the stage's records so far. Steps that an interrupted run recorded after its last checkpoint are trained again
    with the same values: they are logged again, but not recorded a second time.
    """

    def __init__(
        self, folder: Path | None, context: RunContext, run: Any, rows: list[dict[str, Any]], stage: str
    ) -> None:
        self.folder, self.context, self.run = folder, context, run
        self.extensions = read_extensions(context.folder, stage)
        self.ranks: dict[str, list[float]] = {}
        self.recorded = {(row["step"], "loss" in row) for row in rows}
        self.began = time.monotonic() - max((row.get("seconds", 0.0) for row in rows), default=0.0)

    def record_step(self, stage: str, step: int, lr: float, result: StepResult, meter: Meter) -> None:
        """Record an optimizer step: loss, learning rate, gradient norm, tokens, speed, memory."""
        settings, speed = self.context.settings, meter.read()
        steps, tokens = settings.stages[stage].steps, self._tokens(stage, step)
        values = {
            "loss": result.loss,
            "learning_rate": lr,
            "gradient_norm": result.gradient_norm,
            "skipped": result.skipped,
            "tokens": tokens,
            **speed,
        }
        self.ranks = meter.ranks
        left = (self._tokens(stage, steps) - tokens) / speed["tokens_per_second"]
        self._record(
            stage,
            step,
            values,
            f"{stage} {step:>{len(str(steps))}}/{steps}  loss {result.loss:.4f}  lr {lr:.2e}  "
            f"grad norm {result.gradient_norm:.3f}  {speed['tokens_per_second']:,.0f} tokens/s  "
            f"{speed['tflops_per_device']:.3g} TFLOP/s  MFU {speed['mfu']:.1%}  "
            f"{speed['memory_bytes'] / 2**30:.2f} GiB  {format_duration(left)} left"
            + ("  skipped" if result.skipped else ""),
        )

    def record_scores(self, stage: str, step: int, scores: dict[str, float]) -> None:
        """Record bits per byte on each corpus's validation set."""
        shown = "  ".join(f"{corpus} {score:.4f}" for corpus, score in scores.items())
        values: dict[str, Any] = {f"bits_per_byte/{corpus}": score for corpus, score in scores.items()}
        values |= {"tokens": self._tokens(stage, step), **self.ranks}
        self._record(stage, step, values, f"{stage} validation, bits per byte: {shown}")

    def record_samples(self, stage: str, samples: dict[str, str], path: Path) -> None:
        """Log the samples (name of the prompt -> completion) and write them to `path`."""
        prompts = self.context.settings.evaluation.sample_prompts
        if self.folder is None:
            return
        text = "\n".join(f"## {name}\n\n~~~~\n{prompts[name]}{sample}\n~~~~\n" for name, sample in samples.items())
        path.write_text(f"# Samples after stage {stage}\n\n{text}")
        for name, sample in samples.items():
            self.context.log(f"--- sample after {stage}, prompt {name} ---\n{prompts[name]}{_visible(sample)}")
        texts = {f"samples/{name}": prompts[name] + sample for name, sample in samples.items()}
        self._wandb(lambda run: run.summary.update(texts))

    def record_lineage(self, lineage: dict[str, Any], path: Path) -> None:
        """Log the stage as a W&B artifact that derives from its parent's and contains the file at `path`."""
        *ancestors, own = (artifact_name(entry) for entry in lineage["lineage"])

        def log(run: Any) -> None:
            import wandb

            if ancestors and not run.offline:  # only where W&B's server knows the parent
                with contextlib.suppress(wandb.errors.CommError, ValueError):
                    run.use_artifact(f"{ancestors[-1]}:latest")
            artifact = wandb.Artifact(own, type="model", metadata=lineage)
            artifact.add_file(str(path))
            run.log_artifact(artifact)

        self._wandb(log)

    def finish(self) -> None:
        """Close the W&B run."""
        self._wandb(lambda run: run.finish())

    def _wandb(self, action: Callable[[Any], Any]) -> None:
        """Call `action` with the W&B run; where it fails, training continues without W&B and a line says so."""
        if self.run is not None:
            import wandb

            try:
                action(self.run)
            except Exception as error:
                self.run = None
                with contextlib.suppress(Exception):  # else it is tried, and fails, as this process ends
                    wandb.teardown()
                self.context.log(
                    f"warning: W&B failed and is left out from here ({error!r}); metrics.jsonl has every record"
                )

    def _tokens(self, stage: str, steps: int) -> int:
        settings = self.context.settings
        return samples_done(self.extensions, steps, settings.stages[stage]) * settings.model.context_length

    def _record(self, stage: str, step: int, values: dict[str, Any], line: str) -> None:
        if self.folder is None:
            return
        self.context.log(line)
        if (step, "loss" in values) in self.recorded:
            return
        self.recorded.add((step, "loss" in values))
        values["flops"] = values["tokens"] * flops_per_token(self.context.settings.model)
        values["seconds"] = time.monotonic() - self.began
        values["devices"] = self.context.mesh.size
        finite = {key: _finite(value) for key, value in values.items()}
        append_records(self.folder / METRICS, [{"stage": stage, "step": step, **finite}])
        self._wandb(lambda run: run.log(_flat(values), step=step))


def open_tracker(context: RunContext, stage: str, lineage: dict[str, Any]) -> Tracker:
    """The stage's tracker, which continues the records of an interrupted run.

    lineage: from `train.stages.lineage`, stored in the W&B run with the settings.
    """
    if not context.mesh.is_main:
        return Tracker(None, context, None, [], stage)
    rows = repair_records(context.folder / METRICS)
    run = wandb_run(context.folder, stage, context.settings, lineage) if context.settings.tracking.wandb else None
    return Tracker(context.folder, context, run, [row for row in rows if row["stage"] == stage], stage)


def wandb_run(folder: Path, stage: str, settings: Settings, lineage: dict[str, Any]) -> Any:
    """One W&B run a stage: group = run.group, job type = stage. The same folder and stage continue the same run."""
    import wandb

    return wandb.init(
        project=settings.tracking.project,
        entity=settings.tracking.entity,
        dir=str(folder),
        id=wandb_id(folder.resolve(), stage),
        name=f"{settings.run.name}/{stage}",
        group=settings.run.group,
        job_type=stage,
        tags=[settings.model.name, settings.layout.name, settings.stages[stage].corpus],
        config={**plain(settings), "lineage": lineage, "environment": read_json(folder / ENVIRONMENT)},
        resume="allow",
        mode="online" if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL") else "offline",
        # Slurm's SIGTERM kills W&B's process too: what is not in the file by then is lost to the tracker.
        settings=wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=1.0),
    )


def artifact_name(entry: str) -> str:
    """W&B's name for the stage `RUN/STAGE` of a lineage: letters, digits, and a few signs are allowed."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", entry)


def _finite(value: Any) -> Any:
    """`value`, None for nan and infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with each list as one key per rank: W&B plots numbers, not lists."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}/{rank}": each for rank, each in enumerate(value)} if isinstance(value, list) else {key: value}
    return flat


def _visible(text: str) -> str:
    """`text` with control characters replaced, which could move the terminal's cursor."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
