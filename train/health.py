"""Whether training is well: steps that could not be taken, spikes, replicas that differ, and the way back.

A step whose loss or gradient norm is not finite is never taken (parallel/engine.py). After `health.bad_steps` of them
in a row the weights or the data are at fault: the stage goes back to its last checkpoint and passes over the samples of
those steps, as PaLM did at spikes (arXiv 2204.02311, section 5.1). What happened is in the stage's `health.jsonl`, and
the samples that are passed over are read from there: a run that is resumed, on whatever layout, passes over the same.
"""

import statistics
from collections import deque
from pathlib import Path
from typing import Any

from conf.checksums import STATE
from conf.choices import OnBad, OnSpike
from conf.errors import HealthError
from conf.extensions import data_position, read_extensions
from conf.go_back import drop_after
from conf.run_folder import (
    CHECKPOINTS,
    HEALTH,
    append_records,
    read_json,
    read_records,
    repair_records,
    stage_folder,
    step_name,
    step_of,
)
from parallel.engine import Engine, StepResult
from parallel.replicas import compare_replicas
from train.best import forget_after
from train.checkpoint.files import checkpoints
from train.context import RunContext
from train.data.batches import Gap, merged, underneath

SPREAD = 1.4826  # standard deviations in one median absolute deviation of a normal distribution
LEAST_SPREAD = 0.01  # of the median: losses that hardly vary make no spike of a hundredth
REWIND = "rewind"  # event of a return to a checkpoint


class Spikes:
    """A running robust estimate of a value that falls slowly: its median over a window, and what is far above it."""

    def __init__(self, window: int, deviations: float) -> None:
        self.window, self.deviations = window, deviations
        self.values: deque[float] = deque(maxlen=window)

    def is_spike(self, value: float) -> bool:
        """Whether `value` is far above those before it; one that is not is counted among them from here on."""
        if 2 * len(self.values) >= self.window:
            median = statistics.median(self.values)
            spread = SPREAD * statistics.median(abs(each - median) for each in self.values)
            if value > median + self.deviations * max(spread, LEAST_SPREAD * abs(median)):
                return True
        self.values.append(value)
        return False


class Health:
    """Judges the steps of one stage. Every process has one, sees the same, and raises the same; the main one speaks.

    done: the step of the checkpoint that the stage resumes from, whose `state` is taken up; 0: none.
    """

    def __init__(self, context: RunContext, stage: str, done: int = 0) -> None:
        self.context, self.stage, self.settings = context, stage, context.settings.health
        self.file = stage_folder(context.folder, stage) / HEALTH
        self.stage_settings = context.settings.stages[stage]
        self.extensions = read_extensions(context.folder, stage)
        self.gaps = context.mesh.broadcast_object(passed_over(self.file) if context.mesh.is_main else None)
        window, deviations = self.settings.spike_window, self.settings.spike_deviations
        self.spikes = {name: Spikes(window, deviations) for name in ("loss", "gradient norm")}
        before = context.mesh.broadcast_object(self._state_after(done) if context.mesh.is_main and done else {})
        self.in_a_row = before.get("in_a_row", 0)
        for name, values in before.get("spikes", {}).items():
            self.spikes[name].values.extend(values)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this, as JSON."""
        return {"in_a_row": self.in_a_row, "spikes": {name: list(of.values) for name, of in self.spikes.items()}}

    def check_step(self, step: int, result: StepResult) -> None:
        """Tell and record a step that was not taken, or a spike. Errors: `HealthError` where the stage must go back."""
        found = self._not_taken(step, result) if result.skipped else self._spike(step, result)
        if self.context.mesh.any_rank(found is not None):  # tensor ranks may round a loss differently
            raise found or HealthError(
                f"stage {self.stage}, step {step}: another rank saw a spike", self._samples(step)
            )

    def check_replicas(self, engine: Engine, step: int) -> None:
        """Errors: `HealthError` naming the ranks and nodes that hold other values than their replicas."""
        difference = compare_replicas(engine)
        if difference is not None:
            raise HealthError(f"stage {self.stage}, step {step}: {difference}")

    def _state_after(self, step: int) -> dict[str, Any]:
        saved = read_json(self.file.parent / CHECKPOINTS / step_name(step) / STATE)
        return dict(saved.get("health", {}))

    def _not_taken(self, step: int, result: StepResult) -> HealthError | None:
        if result.rescaled:
            self.context.log(f"{self.stage} {step}: a gradient overflowed in fp16, the scale of the loss is lowered")
            return None
        self.in_a_row += 1
        values = f"loss {result.loss:g}, gradient norm {result.gradient_norm:g}"
        self._tell(step, "not taken", f"the step is not taken: {values} ({self.in_a_row} in a row)")
        if self.in_a_row < self.settings.bad_steps:
            return None
        return HealthError(
            f"stage {self.stage}: {self.in_a_row} steps in a row up to {step} had no finite loss and gradient norm",
            self._samples(step - self.in_a_row + 1, step),
        )

    def _spike(self, step: int, result: StepResult) -> HealthError | None:
        self.in_a_row = 0
        values = {"loss": result.loss, "gradient norm": result.gradient_norm}
        found = [f"{name} {value:g}" for name, value in values.items() if self.spikes[name].is_spike(value)]
        if not found:
            return None
        self._tell(step, "spike", f"a spike: {', '.join(found)}")
        if self.settings.on_spike is OnSpike.record:
            return None
        return HealthError(f"stage {self.stage}, step {step}: a spike of {', '.join(found)}", self._samples(step))

    def _samples(self, first_step: int, last_step: int | None = None) -> Gap:
        """Positions [first, last) in the order of the data of what the steps read."""
        begin = data_position(self.extensions, first_step - 1, self.stage_settings)
        end = data_position(self.extensions, last_step or first_step, self.stage_settings)
        return underneath(begin, self.gaps), underneath(end - 1, self.gaps) + 1

    def _tell(self, step: int, event: str, words: str) -> None:
        self.context.log(f"warning: {self.stage} {step}: {words}")
        record(self.context, self.file, {"step": step, "event": event, "what": words})


def _read_since(context: RunContext, stage: str, step: int, samples: Gap) -> Gap:
    """Of `samples`, those that were read after `step`, which the stage returns to. Those before are not read again: to
    take them out of the order would move the rest, and leave others unread."""
    file = stage_folder(context.folder, stage) / HEALTH
    position = data_position(read_extensions(context.folder, stage), step, context.settings.stages[stage])
    return max(samples[0], underneath(position, passed_over(file))), samples[1]


def passed_over(file: Path) -> list[Gap]:
    """The positions in the order of the data that a stage passes over, by its `health.jsonl`."""
    rewinds = [event for event in read_records(file) if event["event"] == REWIND]
    return merged((event["samples"][0], event["samples"][1]) for event in rewinds if event["samples"])


def record(context: RunContext, file: Path, event: dict[str, Any]) -> None:
    """Append an event to a stage's `health.jsonl`, on the main process."""
    if context.mesh.is_main:
        repair_records(file)
        append_records(file, [event])


def go_back(context: RunContext, stage: str, fault: HealthError) -> None:
    """Record that the stage returns to its last checkpoint because of `fault`. Every process calls it.

    Errors: `fault`, where `health.on_bad` is stop or the stage has gone back `health.rewinds` times.
    """
    settings, file = context.settings.health, stage_folder(context.folder, stage) / HEALTH
    before = context.mesh.broadcast_object(
        sum(event["event"] == REWIND for event in read_records(file)) if context.mesh.is_main else None
    )
    if settings.on_bad is OnBad.stop:
        raise HealthError(f"{fault} (health.on_bad=stop); the last checkpoint is kept")
    if before >= settings.rewinds:
        raise HealthError(
            f"{fault}, after going back {before} times (health.rewinds={settings.rewinds}); the last checkpoint is kept"
        )
    kept = max(map(step_of, checkpoints(file.parent / CHECKPOINTS)), default=0) if context.mesh.is_main else 0
    samples = _read_since(context, stage, kept, fault.samples) if fault.samples and context.mesh.is_main else None
    passed = f", passing over samples {samples[0]} to {samples[1] - 1}" if samples else ""
    context.log(
        f"warning: {fault}; going back to the last checkpoint{passed} (time {before + 1} of {settings.rewinds})"
    )
    record(context, file, {"step": None, "event": REWIND, "what": str(fault), "samples": samples and list(samples)})
    if context.mesh.is_main:  # what was recorded since is trained anew, and no longer the same
        rows = drop_after(context.folder, stage, kept)
        forget_after(file.parent, kept, (row["step"] for row in rows if any("bits_per_byte" in key for key in row)))
    context.mesh.barrier()
