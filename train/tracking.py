"""What a stage records: one dictionary a step, to metrics.jsonl, to W&B and, in short, to the terminal.

There is no second logging system: reports and comparisons read the same records.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.schema import Settings, plain
from model.flops import flops_per_token
from parallel.engine import StepResult
from train.context import RunContext
from train.hardware import measured_tflops, peak_memory_bytes
from train.run_directory import append_rows, read_rows

STRAGGLER = 0.25  # a rank that computes this much slower than the median, three records in a row, is named


class Meter:
    """Measures speed between records: tokens and seconds since the last one, evaluation and saving left out."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.straggler, self.times_slowest = -1, 0
        self.ranks: dict[str, list[float]] = {}
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch."""
        self.started, self.steps, self.sequences = time.perf_counter(), 0, 0

    def count(self, sequences: int) -> None:
        """Another optimizer step of so many sequences is done."""
        self.steps += 1
        self.sequences += sequences

    def read(self) -> dict[str, float]:
        """Speed of the stretch, and begin a new one. TFLOP/s and MFU are of one device. Every process calls it.

        Ranks wait for each other in every step, so a step's time does not tell which one is slow: each times a product
        of its own instead. `compute_spread` is how much longer than the median the slowest took.
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
        """Name a rank that stays slow."""
        again = spread > STRAGGLER and slowest == self.straggler
        self.times_slowest = self.times_slowest + 1 if again else 1
        self.straggler = slowest if spread > STRAGGLER else -1
        if self.straggler >= 0 and self.times_slowest == 3:
            self.context.log(f"warning: rank {slowest} on {host} computes {spread:.0%} slower than the median rank")


class Tracker:
    """Records of one stage. On the processes that do not speak it does nothing: `folder` is None.

    A step is recorded once: what an interrupted try recorded beyond its last checkpoint comes again with the same
    values, and is shown but not recorded.
    """

    def __init__(self, folder: Path | None, context: RunContext, run: Any, rows: list[dict[str, Any]]) -> None:
        self.folder, self.context, self.run = folder, context, run
        self.ranks: dict[str, list[float]] = {}
        self.recorded = {(row["step"], "loss" in row) for row in rows}
        self.began = time.monotonic() - max((row.get("seconds", 0.0) for row in rows), default=0.0)

    def record_step(self, stage: str, step: int, lr: float, result: StepResult, meter: Meter) -> None:
        """An optimizer step: loss, rate, gradient norm, tokens, speed, memory."""
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
        left = (steps - step) * self._tokens(stage, 1) / speed["tokens_per_second"]
        self._record(
            stage,
            step,
            values,
            f"{stage} {step:>{len(str(steps))}}/{steps}  loss {result.loss:.4f}  lr {lr:.2e}  "
            f"grad norm {result.gradient_norm:.3f}  {speed['tokens_per_second']:,.0f} tokens/s  "
            f"{speed['tflops_per_device']:.3g} TFLOP/s  MFU {speed['mfu']:.1%}  "
            f"{speed['memory_bytes'] / 2**30:.2f} GiB  {_duration(left)} left{'  skipped' if result.skipped else ''}",
        )

    def record_scores(self, stage: str, step: int, scores: dict[str, float]) -> None:
        """Bits per byte on each corpus's validation set."""
        shown = "  ".join(f"{corpus} {score:.4f}" for corpus, score in scores.items())
        values = {f"bits_per_byte/{corpus}": score for corpus, score in scores.items()}
        values |= {"tokens": self._tokens(stage, step), **self.ranks}
        self._record(stage, step, values, f"{stage} validation, bits per byte: {shown}")

    def record_samples(self, stage: str, samples: dict[str, str], path: Path) -> None:
        """What the model made of the prompts: printed, and kept at `path`."""
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
        """The stage as a W&B artifact made from its parent's, the file at `path` in it."""
        *ancestors, own = (artifact_name(entry) for entry in lineage["lineage"])

        def log(run: Any) -> None:
            import wandb

            if ancestors and not run.offline:  # W&B draws this edge only where its server knows the parent
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
        """Tell W&B; where it fails the run goes on without it, and says so."""
        if self.run is not None:
            import wandb

            try:
                action(self.run)
            except Exception as error:
                self.run = None
                with contextlib.suppress(Exception):  # else it is tried, and fails, as this process ends
                    wandb.teardown()
                self.context.log(f"W&B failed and is left out from here ({error!r}); metrics.jsonl has every record")

    def _tokens(self, stage: str, steps: int) -> int:
        settings = self.context.settings
        return steps * settings.stages[stage].global_batch_size * settings.model.context_length

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
        append_rows(self.folder / "metrics.jsonl", [{"stage": stage, "step": step, **finite}])
        self._wandb(lambda run: run.log(_flat(values), step=step))


def open_tracker(context: RunContext, stage: str, lineage: dict[str, Any]) -> Tracker:
    """The stage's tracker, which goes on where an interrupted try left off.

    lineage: what W&B keeps with the settings, from `train.stages.lineage`.
    """
    if not context.mesh.is_main:
        return Tracker(None, context, None, [])
    rows = read_rows(context.folder / "metrics.jsonl")
    run = wandb_run(context.folder, stage, context.settings, lineage) if context.settings.tracking.wandb else None
    return Tracker(context.folder, context, run, [row for row in rows if row["stage"] == stage])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line that was cut off is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def wandb_run(folder: Path, stage: str, settings: Settings, lineage: dict[str, Any]) -> Any:
    """One W&B run a stage: group = experiment, job type = stage. The same folder and stage continue the same run."""
    import wandb

    environment = json.loads((folder / "environment.json").read_text())
    return wandb.init(
        project=settings.tracking.project,
        entity=settings.tracking.entity,
        dir=str(folder),
        id=hashlib.sha256(f"{folder.resolve()}/{stage}".encode()).hexdigest()[:12],
        name=f"{settings.run.name}/{stage}",
        group=settings.experiment,
        job_type=stage,
        tags=[settings.model.name, settings.layout.name, settings.stages[stage].corpus],
        config={**plain(settings), "lineage": lineage, "environment": environment},
        resume="allow",
        mode="online" if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL") else "offline",
        # Slurm's SIGTERM kills W&B's process too: what is not in the file by then is lost to the tracker.
        settings=wandb.Settings(silent=True, console="off", x_transaction_log_flush_interval=1.0),
    )


def artifact_name(entry: str) -> str:
    """W&B's name for the stage `RUN/STAGE` of a lineage: letters, digits, and a few signs are allowed."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", entry)


def _finite(value: Any) -> Any:
    """None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """A value a rank under its own key: W&B draws numbers, not lists."""
    flat = {}
    for key, value in values.items():
        flat |= {f"{key}/{rank}": each for rank, each in enumerate(value)} if isinstance(value, list) else {key: value}
    return flat


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"


def _visible(text: str) -> str:
    """Control characters that would move the terminal's cursor, made harmless."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
