"""Saving beside training: values are copied to host memory, and a thread of each process writes them.

As CheckFreq (FAST 2021) and torchtitan do: what training waits for is the copy (the stall); writing (the drain) goes on
beside it. At most one save is in flight. A checkpoint gets its name when every process's files are on the disk, so that
what looks like one is one. A thread takes no part in collectives: what the processes tell each other, they tell between
two steps.
"""

import contextlib
import queue
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from conf.errors import HealthError, NodeError, node_name
from conf.run_folder import append_records
from conf.save_time import SAVES
from model.weights import layer_file
from parallel.engine import Engine
from parallel.full_state import MOMENTS, WEIGHTS
from parallel.mesh import ProcessMesh
from train.checkpoint.files import Keep, publish, remove, step_name, to_remove, write_synced

APPEARS_SECONDS = 20.0  # how long a file that another node wrote may take to appear on a network file system


class Writer(threading.Thread):
    """Writes one process's layers to the disk, in order, and remembers what it wrote and what went wrong first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self.folder = folder
        self.layers: queue.Queue[tuple[str, dict[str, Tensor]] | None] = queue.Queue()
        self.written: dict[str, tuple[int, int]] = {}  # file -> (bytes, CRC-32)
        self.problem: str | None = None
        self.not_finite: str | None = None
        self.seconds = 0.0

    def run(self) -> None:
        """Write until None comes; after a problem what comes is dropped, for others wait for this process's part."""
        while (item := self.layers.get()) is not None:
            started = time.perf_counter()
            if self.problem is None and self.not_finite is None:
                self._write(*item)
            self.seconds += time.perf_counter() - started

    def _write(self, name: str, layer: dict[str, Tensor]) -> None:
        try:
            self.not_finite = next(
                (f"{name}: {key}" for key, value in layer.items() if not value.isfinite().all()), None
            )
            if self.not_finite is None:
                content = save(layer)
                write_synced(self.folder / name, content)
                self.written[name] = len(content), zlib.crc32(content)
        except (OSError, SafetensorError, MemoryError) as error:
            self.problem = f"{node_name()}: {self.folder / name} cannot be written ({error})"


@dataclass
class Save:
    """A save in flight: `partial` becomes `folder`. what: folders below it; expected: the files that processes write.

    state: of its `state.json`, None for bare weights. stall_seconds: how long training has waited for it.
    """

    folder: Path
    partial: Path
    what: Sequence[str]
    expected: set[str]
    state: dict[str, Any] | None
    writer: Writer
    stall_seconds: float = 0.0


class Saver:
    """Saves the checkpoints of one stage. Every process has one and calls it at the same steps.

    Errors of every method: `NodeError` where a file cannot be written, `HealthError` where a value is not finite; on
    every process, and the checkpoints before stay.
    """

    def __init__(self, engine: Engine, folder: Path, keep: Keep, layers: int) -> None:
        self.engine, self.folder, self.keep, self.layers = engine, folder, keep, layers
        self.pending: Save | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Begin to save checkpoint `state["step"]`; one in flight is waited for."""
        self.wait()
        whole = {**state, "optimizer": self.engine.trainer_state}
        self._begin(self.folder / step_name(state["step"]), (WEIGHTS, *MOMENTS), whole)

    def save_weights(self, folder: Path) -> None:
        """Write the model's whole weights to `folder`, one `layer_<i>.safetensors` a layer, and wait for them."""
        self.wait()
        self._begin(folder, (".",), None)
        self.wait()

    def poll(self) -> None:
        """Give a save in flight its name, where every process has written its part."""
        if self.pending is not None and not self.engine.mesh.any_rank(self.pending.writer.is_alive()):
            self.wait()

    def wait(self) -> None:
        """Wait for the save in flight, where there is one: what it saved is on the disk when this returns."""
        if self.pending is None:
            return
        save, started = self.pending, time.perf_counter()
        self.pending = None
        save.writer.join()
        _finish(save, self.engine.mesh)
        if self.engine.mesh.is_main and save.state is not None:
            for path in to_remove(self.folder, self.keep, at_most=save.state["step"]):
                remove(path)
        self.engine.mesh.barrier()
        save.stall_seconds += time.perf_counter() - started
        _record(save, self.engine.mesh)

    def _begin(self, folder: Path, what: Sequence[str], state: dict[str, Any] | None) -> None:
        """Copy what is to be saved; a thread writes it."""
        mesh, started = self.engine.mesh, time.perf_counter()
        partial = folder.with_name(f"{folder.name}.partial")
        expected = {str(Path(kind) / layer_file(index)) for kind in what for index in range(self.layers)}
        save = Save(folder, partial, what, expected, state, Writer(partial))
        _raise_together(_make(save) if mesh.is_main else None, mesh)
        save.writer.start()
        for kind in what:
            for index, layer in _layers(self.engine, WEIGHTS if kind == "." else kind):
                save.writer.layers.put((str(Path(kind) / layer_file(index)), layer))
        save.writer.layers.put(None)
        save.stall_seconds = time.perf_counter() - started
        self.pending = save


def _layers(engine: Engine, what: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The layers whose values this process is given, in host memory. Every process runs through it."""
    for index, named in groupby(engine.full_state(what), key=lambda pair: int(pair[0].partition(".")[0])):
        layer = {name.partition(".")[2]: value.contiguous() for name, value in named if value is not None}
        if layer:
            yield index, layer


def _make(save: Save) -> str | None:
    """Make the folders that are written to; why they cannot be made, in words."""
    try:
        shutil.rmtree(save.partial, ignore_errors=True)
        for kind in save.what:
            (save.partial / kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{node_name()}: {save.partial} cannot be written ({error})"
    return None


def _finish(save: Save, mesh: ProcessMesh) -> None:
    """Give the save its name, where every process wrote its part of it. Errors: as `Saver`."""
    parts = mesh.all_gather_object((save.writer.problem, save.writer.not_finite, save.writer.written))
    problem = next((each for each, _, _ in parts if each is not None), None)
    not_finite = next((each for _, each, _ in parts if each is not None), None)
    written = {name: part for _, _, own in parts for name, part in own.items()}
    if mesh.is_main and problem is None and not_finite is None:
        problem = _publish(save, written)
    problem = mesh.broadcast_object(problem)
    if problem is None and not_finite is None:
        return
    if mesh.is_main:
        shutil.rmtree(save.partial, ignore_errors=True)
    mesh.barrier()
    if problem is not None:
        raise NodeError(problem)
    raise HealthError(f"{save.folder} is not saved: {not_finite} is not finite")


def _publish(save: Save, written: dict[str, tuple[int, int]]) -> str | None:
    """Let the folder appear under its name; why it cannot, in words."""
    if written.keys() != save.expected:
        return f"{save.partial}: nobody wrote {min(save.expected ^ written.keys())}"
    until = time.monotonic() + APPEARS_SECONDS
    for name, (size, _) in written.items():
        path = save.partial / name
        while not (path.is_file() and path.stat().st_size == size):
            if time.monotonic() > until:
                return f"{node_name()}: {path} was written elsewhere and does not appear here in {APPEARS_SECONDS:g} s"
            time.sleep(0.1)
    files = {
        "files": {name: size for name, (size, _) in sorted(written.items())},
        "crc32": {name: checksum for name, (_, checksum) in sorted(written.items())},
    }
    try:
        publish(save.partial, save.folder, save.what, None if save.state is None else {**save.state, **files})
    except OSError as error:
        return f"{node_name()}: {save.folder} cannot be written ({error})"
    return None


def _record(save: Save, mesh: ProcessMesh) -> None:
    """Record what a checkpoint cost: seconds that training waited and that the slowest process wrote, and GB/s."""
    if save.state is None:
        return
    own = sum(size for size, _ in save.writer.written.values())
    parts = mesh.all_gather_object((save.writer.seconds, own))
    if mesh.is_main:
        drain, total = max(seconds for seconds, _ in parts), sum(size for _, size in parts)
        cost = {
            "step": save.state["step"],
            "bytes": total,
            "stall_seconds": round(save.stall_seconds, 4),
            "drain_seconds": round(drain, 4),
            "gigabytes_per_second": round(total / max(drain, 1e-9) / 1e9, 4),
        }
        with contextlib.suppress(OSError):  # the checkpoint is there
            append_records(save.folder.parents[1] / SAVES, [cost])


def _raise_together(problem: str | None, mesh: ProcessMesh) -> None:
    """`NodeError` on every process where one has a problem: one that raised alone would leave the others waiting."""
    problems = [each for each in mesh.all_gather_object(problem) if each is not None]
    if problems:
        raise NodeError(problems[0])
