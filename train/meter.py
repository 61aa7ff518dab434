"""What a stage costs: tokens/s, TFLOP/s and memory from record to record, and where its time and energy go."""

import contextlib
import platform
import statistics
import time
from collections.abc import Iterator
from typing import Any

from conf.go_back import PARTS
from model.flops import flops_per_token
from parallel.micro_batch import MicroBatch
from train.context import RunContext
from train.hardware import energy_joules, measured_tflops, peak_memory_bytes


class Meter:
    """Measures tokens and seconds from one record to the next, without evaluation and saving."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.straggler, self.times_slowest = -1, 0
        self.ranks: dict[str, list[float]] = {}
        self.seconds = {part: 0.0 for part in PARTS if part != "training"}  # which is the rest
        self.began, self.readings = time.perf_counter(), 0
        self.energy_before = energy_joules(context.mesh.device)
        self.restart()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the stage that is no training, and begin a new interval after it."""
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began
        self.restart()

    def waiting(self, batches: Iterator[MicroBatch]) -> Iterator[MicroBatch]:
        """`batches`, with the time that is spent waiting for each."""
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.seconds["data"] += time.perf_counter() - began
            yield batch

    def restart(self) -> None:
        """Begin a new interval."""
        self.started, self.steps, self.sequences = time.perf_counter(), 0, 0

    def leave_out(self, seconds: float) -> None:
        """Count the last `seconds` neither to the interval nor to the stage's training."""
        self.started, self.began = self.started + seconds, self.began + seconds

    def count(self, sequences: int) -> None:
        """Count an optimizer step of `sequences` sequences."""
        self.steps += 1
        self.sequences += sequences

    def read(self) -> dict[str, Any]:
        """Speed of the interval; begins a new one. TFLOP/s and MFU are of one device. Every process calls it.

        Ranks wait for each other in every step, so the step time does not show which one is slow: each rank times a
        matrix product of its own. `compute_spread` is how much slower than the median rank the slowest one is.
        """
        seconds, settings, mesh = time.perf_counter() - self.started, self.context.settings, self.context.mesh
        tokens_per_second = self.sequences * settings.model.context_length / seconds
        tflops = tokens_per_second * flops_per_token(settings.model, settings.finetune) / mesh.size / 1e12
        own = measured_tflops(mesh.device, self.context.precision, small=True)
        mine = (float(peak_memory_bytes(mesh.device)), own, platform.node(), self._energy())
        memory, speeds, hosts, energies = zip(*mesh.all_gather_object(mine), strict=True)
        self.ranks = {"rank_memory_bytes": list(memory), "rank_tflops": [round(speed, 3) for speed in speeds]}
        slowest = speeds.index(min(speeds))
        spread = statistics.median(speeds) / speeds[slowest] - 1
        self._watch(slowest, spread, hosts[slowest])
        step_seconds = seconds / max(self.steps, 1)
        self.restart()
        self.readings += 1
        training = time.perf_counter() - self.began - sum(self.seconds.values())
        parts = {f"seconds_{name}": value for name, value in {"training": training, **self.seconds}.items()}
        return {
            "tokens_per_second": tokens_per_second,
            "tflops_per_device": tflops,
            "mfu": tflops / self.context.peak_tflops if self.context.peak_tflops else None,
            "memory_bytes": max(memory),
            "memory_bytes_min": min(memory),
            "step_seconds": step_seconds,
            "compute_spread": spread,
            "slowest_rank": slowest,
            "energy_joules": sum(energies) if all(energy is not None for energy in energies) else None,
            **parts,
        }

    def _energy(self) -> float | None:
        """Joules that this rank's device has used since the meter was made."""
        now = energy_joules(self.context.mesh.device)
        return None if now is None or self.energy_before is None else now - self.energy_before

    def _watch(self, slowest: int, spread: float, host: str) -> None:
        """Warn of a rank that was the slowest, by more than the threshold, in three readings in a row."""
        threshold = self.context.settings.tracking.straggler_threshold
        again = spread > threshold and slowest == self.straggler
        self.times_slowest = self.times_slowest + 1 if again else 1
        self.straggler = slowest if spread > threshold else -1
        if self.straggler >= 0 and self.times_slowest == 3:
            self.context.log(f"warning: rank {slowest} on {host} computes {spread:.0%} slower than the median rank")
