"""The records of a stage: one dictionary per record, to metrics.jsonl, to W&B, to TensorBoard and, shortened,
to the log.

Reports and comparisons read the same records from metrics.jsonl.
"""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from conf.duration import format_duration
from conf.extensions import read_extensions, samples_done
from conf.go_back import TOTALS, spent
from conf.run_folder import METRICS, TENSORBOARD, append_records, repair_records
from model.flops import flops_per_token
from parallel.engine import StepResult
from train.context import RunContext
from train.meter import Meter
from train.summary import device_seconds
from train.tensorboard import TensorBoard
from train.wandb_run import artifact_name, flat, mark_unsent, open_wandb


class Tracker:
    """Writes the records of one stage, on the main process; on the others `folder` is None and nothing is written.

    before: what the stage has taken so far, by the names of `TOTALS`. rows: its records so far. Steps that an
    interrupted run recorded after its last checkpoint are trained again with the same values: they are logged again,
    but not recorded a second time.
    """

    def __init__(
        self,
        folder: Path | None,
        context: RunContext,
        run: Any,
        rows: list[dict[str, Any]],
        board: TensorBoard | None = None,
        extensions: list[dict[str, Any]] | None = None,
        before: dict[str, float] | None = None,
    ) -> None:
        self.folder, self.context, self.run, self.board = folder, context, run, board
        self.extensions = extensions or []
        self.ranks: dict[str, list[float]] = {}
        self.before = before or {}
        self.recorded = {(row["step"], _kind(row)) for row in rows}
        self.started = False  # whether a step was recorded by this process
        self.logged = False  # whether W&B has a step of this process
        self.waiting: dict[str, Any] = {}  # for W&B's next step
        self.began = time.monotonic()

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
        values |= {name: values[name] + self.before.get(name, 0.0) for name in TOTALS if values.get(name) is not None}
        if not self.started:  # what a restart costs, from the process to the end of its first step
            self.started, values["start_seconds"] = True, time.time() - psutil.Process().create_time()
        self.ranks = meter.ranks
        mfu = "" if speed["mfu"] is None else f"  MFU {speed['mfu']:.1%}"
        left = (self._tokens(stage, steps) - tokens) / max(speed["tokens_per_second"], 1e-9)
        shown = f"  {format_duration(left)} left" if meter.readings > 1 else ""  # the first one has the compiling in it
        self._record(
            stage,
            step,
            values,
            f"{stage} {step:>{len(str(steps))}}/{steps}  loss {result.loss:.4f}  lr {lr:.2e}  "
            f"grad norm {result.gradient_norm:.3f}  {speed['tokens_per_second']:,.0f} tokens/s  "
            f"{speed['tflops_per_device']:.3g} TFLOP/s{mfu}  {speed['memory_bytes'] / 2**30:.2f} GiB{shown}"
            + ("  skipped" if result.skipped else ""),
        )

    def record_scores(self, stage: str, step: int, scores: dict[str, float]) -> None:
        """Record bits per byte on each corpus's validation set."""
        shown = "  ".join(f"{corpus} {score:.4f}" for corpus, score in scores.items())
        values: dict[str, Any] = {f"bits_per_byte/{corpus}": score for corpus, score in scores.items()}
        values |= {"tokens": self._tokens(stage, step), **self.ranks}
        self._record(stage, step, values, f"{stage} validation, bits per byte: {shown}")

    def record_benchmark(self, stage: str, step: int, task: str, pass_at_k: dict[str, float]) -> None:
        """Record a benchmark's pass@k of the model after `step`; it may come some steps later."""
        values: dict[str, Any] = {f"{task}/pass@{k}": value for k, value in pass_at_k.items()}
        shown = "  ".join(f"pass@{k} {value:.2%}" for k, value in pass_at_k.items())
        values["tokens"] = self._tokens(stage, step)
        self._record(stage, step, values, f"{stage} {task} after step {step}: {shown}")

    def record_save(self, stage: str, cost: dict[str, Any]) -> None:
        """Record what the checkpoint of a step cost, some steps later: seconds of stall and of drain, GB/s."""
        step, stall, drain = cost["step"], cost["stall_seconds"], cost["drain_seconds"]
        values: dict[str, Any] = {f"save/{key}": value for key, value in cost.items() if key != "step"}
        values["tokens"] = self._tokens(stage, step)
        speed = f"{cost['bytes'] / 1e9:.3g} GB at {cost['gigabytes_per_second']:.3g} GB/s"
        line = f"{stage} saved after step {step}: training waited {stall:.2f} s, {speed} in {drain:.2f} s"
        self._record(stage, step, values, line)

    def record_samples(self, stage: str, samples: dict[str, str], path: Path) -> None:
        """Log the samples (name of the prompt -> completion) and write them to `path`."""
        prompts = self.context.settings.evaluation.sample_prompts
        if self.folder is None:
            return
        text = "\n".join(f"## {name}\n\n~~~~\n{prompts[name]}{sample}\n~~~~\n" for name, sample in samples.items())
        path.write_text(f"# Samples after stage {stage}\n\n{text}", encoding="utf-8")
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
        """Close the W&B run and the TensorBoard file."""
        if self.waiting:
            self._wandb(lambda run: run.summary.update(self.waiting))
        self._wandb(lambda run: run.finish())
        if self.board is not None:
            self.board.close()

    def _wandb(self, action: Callable[[Any], Any]) -> None:
        """Call `action` with the W&B run; where it fails, training continues without W&B and a line says so."""
        if self.run is not None:
            import wandb

            try:
                action(self.run)
            except Exception as error:
                with contextlib.suppress(Exception):
                    mark_unsent(self.run)
                self.run = None
                with contextlib.suppress(Exception):  # else it is tried, and fails, as this process ends
                    wandb.teardown()
                self.context.log(
                    f"warning: W&B failed and is left out from here ({error!r}); metrics.jsonl has every record, "
                    "`python -m launch sync` uploads what is missing"
                )

    def _tokens(self, stage: str, steps: int) -> int:
        settings = self.context.settings
        return samples_done(self.extensions, steps, settings.stages[stage]) * settings.model.context_length

    def _record(self, stage: str, step: int, values: dict[str, Any], line: str) -> None:
        if self.folder is None:
            return
        self.context.log(line)
        if (step, _kind(values)) in self.recorded:
            return
        self.recorded.add((step, _kind(values)))
        values["flops"] = values["tokens"] * flops_per_token(
            self.context.settings.model, self.context.settings.finetune
        )
        seconds, devices = time.monotonic() - self.began, self.context.mesh.size
        values["seconds"] = self.before.get("seconds", 0.0) + seconds
        values["devices"] = devices
        values["device_seconds"] = self.before.get("device_seconds", 0.0) + seconds * devices
        finite = {key: _finite(value) for key, value in values.items()}
        if self.board is not None:  # first: what metrics.jsonl holds, TensorBoard's file holds too
            self.board.write(step, finite)
        append_records(self.folder / METRICS, [{"stage": stage, "step": step, **finite}])
        self._log(step, flat(values), late=any("/pass@" in key or key.startswith("save/") for key in values))

    def _log(self, step: int, values: dict[str, Any], late: bool) -> None:
        """To W&B. late: scores and saves come later than their step: W&B takes no step that is over, and shows them at
        the one under way, whose own tokens and seconds stay. Before the first step of this process they wait for it:
        they would be a step of their own.
        """
        if late:
            values = {key: value for key, value in values.items() if "/" in key}
        if not late:
            values, self.waiting, self.logged = {**self.waiting, **values}, {}, True
            self._wandb(lambda run: run.log(values, step=step))
        elif self.logged:
            self._wandb(lambda run: run.log(values, commit=False))
        else:
            self.waiting |= values


def open_tracker(context: RunContext, stage: str, lineage: dict[str, Any]) -> Tracker:
    """The stage's tracker, which continues the records of an interrupted run.

    lineage: from `train.stages.lineage`, stored in the W&B run with the settings.
    """
    if not context.mesh.is_main:
        return Tracker(None, context, None, [])
    folder, settings = context.folder, context.settings
    rows = [row for row in repair_records(folder / METRICS) if row["stage"] == stage]
    run = open_wandb(folder, stage, settings, lineage, rows, context.log) if settings.tracking.wandb else None
    board = TensorBoard(folder / TENSORBOARD / stage, rows) if settings.tracking.tensorboard else None
    before = spent(folder, stage)
    before["device_seconds"] = max(before.get("device_seconds", 0.0), device_seconds(rows))  # not in older records
    return Tracker(folder, context, run, rows, board, read_extensions(folder, stage), before)


def _kind(row: dict[str, Any]) -> str:
    """What is recorded at a step: `loss`, `bits_per_byte`, or the name of a benchmark."""
    names = (key.partition("/")[0] for key in row if "/" in key)
    return "loss" if "loss" in row else next(names, "")


def _finite(value: Any) -> Any:
    """`value`, None for nan and infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _visible(text: str) -> str:
    """`text` with control characters replaced, which could move the terminal's cursor."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
