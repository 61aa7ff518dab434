"""What a stage records: one dictionary a step, to metrics.jsonl, to W&B and, in short, to the terminal.

There is no second logging system: reports and comparisons read the same records.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.schema import Settings, plain
from model.flops import flops_per_token
from parallel.engine import StepResult
from train.hardware import peak_memory_bytes
from train.job import Job


class Meter:
    """Measures speed between records: tokens and seconds since the last one, evaluation and saving left out."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch."""
        self.started, self.sequences = time.perf_counter(), 0

    def count(self, sequences: int) -> None:
        """Another optimizer step of so many sequences is done."""
        self.sequences += sequences

    def read(self) -> dict[str, float]:
        """Speed of the stretch, and begin a new one. TFLOP/s and MFU are of one device."""
        seconds, model = time.perf_counter() - self.started, self.job.settings.model
        tokens_per_second = self.sequences * model.context_length / seconds
        tflops = tokens_per_second * flops_per_token(model) / self.job.world.size / 1e12
        self.restart()
        return {
            "tokens_per_second": tokens_per_second,
            "tflops_per_device": tflops,
            "mfu": tflops / self.job.peak_tflops,
            "memory_bytes": float(peak_memory_bytes(self.job.world.device)),
        }


class Tracker:
    """Records of one stage. On the processes that do not speak it does nothing: `folder` is None."""

    def __init__(self, folder: Path | None, job: Job, run: Any) -> None:
        self.folder, self.job, self.run = folder, job, run

    def record_step(self, stage: str, step: int, rate: float, result: StepResult, meter: Meter) -> None:
        """An optimizer step: loss, rate, gradient norm, tokens, speed, memory."""
        settings, speed = self.job.settings, meter.read()
        steps, tokens = settings.stages[stage].steps, self._tokens(stage, step)
        values = {
            "loss": result.loss,
            "learning_rate": rate,
            "gradient_norm": result.gradient_norm,
            "skipped": result.skipped,
            "tokens": tokens,
            **speed,
        }
        left = (steps - step) * self._tokens(stage, 1) / speed["tokens_per_second"]
        self._record(
            stage,
            step,
            values,
            f"{stage} {step:>{len(str(steps))}}/{steps}  loss {result.loss:.4f}  lr {rate:.2e}  "
            f"grad norm {result.gradient_norm:.3f}  {speed['tokens_per_second']:,.0f} tokens/s  "
            f"{speed['tflops_per_device']:.3g} TFLOP/s  MFU {speed['mfu']:.1%}  "
            f"{speed['memory_bytes'] / 2**30:.2f} GiB  {_duration(left)} left{'  skipped' if result.skipped else ''}",
        )

    def record_scores(self, stage: str, step: int, scores: dict[str, float]) -> None:
        """Bits per byte on each corpus's validation set."""
        shown = "  ".join(f"{corpus} {score:.4f}" for corpus, score in scores.items())
        values = {f"bits_per_byte/{corpus}": score for corpus, score in scores.items()}
        self._record(
            stage, step, {"tokens": self._tokens(stage, step), **values}, f"{stage} validation, bits per byte: {shown}"
        )

    def record_samples(self, stage: str, samples: dict[str, str], path: Path) -> None:
        """What the model made of the prompts: printed, and kept at `path`."""
        prompts = self.job.settings.evaluation.sample_prompts
        if self.folder is None:
            return
        text = "\n".join(f"## {name}\n\n~~~~\n{prompts[name]}{sample}\n~~~~\n" for name, sample in samples.items())
        path.write_text(f"# Samples after stage {stage}\n\n{text}")
        for name, sample in samples.items():
            self.job.say(f"--- sample after {stage}, prompt {name} ---\n{prompts[name]}{_visible(sample)}")
        texts = {f"samples/{name}": prompts[name] + sample for name, sample in samples.items()}
        self._wandb(lambda run: run.summary.update(texts))

    def finish(self) -> None:
        """Close the W&B run."""
        self._wandb(lambda run: run.finish())

    def _wandb(self, action: Callable[[Any], Any]) -> None:
        """Tell W&B; where it fails the run goes on without it, and says so."""
        if self.run is not None:
            try:
                action(self.run)
            except Exception as error:
                self.run = None
                self.job.say(f"W&B failed and is left out from here ({error!r}); metrics.jsonl has every record")

    def _tokens(self, stage: str, steps: int) -> int:
        settings = self.job.settings
        return steps * settings.stages[stage].global_batch_size * settings.model.context_length

    def _record(self, stage: str, step: int, values: dict[str, Any], line: str) -> None:
        if self.folder is None:
            return
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, **finite}) + "\n")
        self._wandb(lambda run: run.log(values, step=step))
        self.job.say(line)


def open_tracker(job: Job, stage: str, done: int, context: dict[str, Any]) -> Tracker:
    """The stage's tracker, going on after `done` steps: records that an interrupted try made beyond them are dropped.

    context: what W&B keeps with the settings (the stage's lineage).
    """
    if not job.world.is_main:
        return Tracker(None, job, None)
    kept = [row for row in read_metrics(job.folder) if row["stage"] != stage or row["step"] <= done]
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    run = _wandb_run(job.folder, stage, job.settings, context) if job.settings.tracking.wandb else None
    return Tracker(job.folder, job, run)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line that was cut off is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def _wandb_run(folder: Path, stage: str, settings: Settings, context: dict[str, Any]) -> Any:
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
        config={**plain(settings), "lineage": context, "environment": environment},
        resume="allow",
        mode="online" if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL") else "offline",
        settings=wandb.Settings(silent=True, console="off"),
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"


def _visible(text: str) -> str:
    """Control characters that would move the terminal's cursor, made harmless."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
