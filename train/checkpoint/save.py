"""Saving beside training: values are copied to host memory, and a thread of each process writes them.

As CheckFreq (FAST 2021) and torchtitan do: what training waits for is the copy (the stall); writing (the drain) goes on
beside training, and begins when the copy is done: beside the copy, it made that take three times as long on a CPU, and
the whole no shorter. At most one save is in flight. A checkpoint gets its name when every process's files are on the
disk; those that it replaces are removed beside training. A thread takes no part in collectives.
"""

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from conf.checksums import listing, xxh3_64
from conf.errors import HealthError, NodeError, node_name
from conf.run_folder import append_records, step_name
from conf.save_time import SAVES
from model.weights import layer_file
from parallel.engine import Engine
from parallel.full_state import MOMENTS, WEIGHTS
from parallel.mesh import ProcessMesh
from train.checkpoint.files import Keep, publish, remove_all, to_remove, withdraw, write_synced

POLL_SECONDS = 0.02  # at most, between two looks at whether all processes have written
WRITERS = 4  # threads of one process
APPEARS_SECONDS = 20.0  # how long a file that another node wrote may take to appear on a network file system


class Writer:
    """Writes one process's layers to the disk, several at a time, and remembers what it wrote and what went wrong.

    While one thread waits for the disk, others check, serialise and sum up what comes next.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: queue.SimpleQueue[tuple[str, dict[str, Tensor]]] = queue.SimpleQueue()
        self.written: dict[str, tuple[int, str]] = {}  # file -> (bytes, checksum)
        self.problem: str | None = None
        self.not_finite: str | None = None
        self.started = self.ended = 0.0
        self.threads = [threading.Thread(target=self._run, name="checkpoint", daemon=True) for _ in range(WRITERS)]

    def put(self, name: str, layer: dict[str, Tensor]) -> None:
        """Have a layer written to the file `name`, from `start` on."""
        self.layers.put((name, layer))

    def start(self) -> None:
        """Begin to write; no more layers come."""
        self.started = self.ended = time.perf_counter()
        for thread in self.threads:
            thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be written."""
        return any(thread.is_alive() for thread in self.threads)

    def join(self, seconds: float) -> None:
        """Wait until everything is written, at most `seconds`."""
        for thread in self.threads:
            thread.join(seconds / WRITERS)

    @property
    def seconds(self) -> float:
        """From the start to the last layer's being on the disk."""
        return self.ended - self.started

    def _run(self) -> None:
        """Write what there is; after a problem it is dropped, for others wait for this process's part."""
        with contextlib.suppress(queue.Empty):
            while True:
                item = self.layers.get_nowait()
                if self.problem is None and self.not_finite is None:
                    self._write(*item)
                self.ended = max(self.ended, time.perf_counter())

    def _write(self, name: str, layer: dict[str, Tensor]) -> None:
        try:
            wrong = next((key for key, value in layer.items() if not is_finite(value.numpy())), None)
            if wrong is not None:
                self.not_finite = f"{name}: {wrong}"
                return
            parts = serialise(layer)
            write_synced(self.folder / name, *parts)
            self.written[name] = sum(len(part) for part in parts), xxh3_64(parts)
        except (OSError, MemoryError) as error:
            self.problem = self.problem or f"{node_name()}: {self.folder / name} cannot be written ({error})"


def is_finite(values: np.ndarray) -> bool:
    """Whether all are. Both ends of their range are NaN where one is; `np.isfinite` takes nine times as long."""
    return bool(np.isfinite(values.max()) and np.isfinite(values.min()))


def serialise(layer: dict[str, Tensor]) -> list[bytes | memoryview]:
    """The parts of a safetensors file of fp32 tensors in host memory (huggingface.co/docs/safetensors: "Format").

    The values are not copied: the library's `save` copies them twice, which takes four times as long as writing them.
    """
    header: dict[str, Any] = {}
    values = [value.numpy().reshape(-1).data.cast("B") for value in layer.values()]
    ends = list(accumulate(map(len, values), initial=0))
    for (name, value), begin, end in zip(layer.items(), ends, ends[1:], strict=False):
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    return [len(text).to_bytes(8, "little"), text, *values]


@dataclass
class Save:
    """A save in flight: `partial` becomes `folder`. what: folders below it; expected: the files that processes write.

    state: of its `state.json`, beside the files' checksums; empty for bare weights. stall_seconds: how long training
    has waited for it.
    """

    folder: Path
    partial: Path
    what: Sequence[str]
    expected: set[str]
    state: dict[str, Any]
    writer: Writer
    stall_seconds: float = 0.0


class Saver:
    """Saves the checkpoints of one stage. Every process has one and calls it at the same steps.

    Errors of every method: `NodeError` where a file cannot be written, `HealthError` where a value is not finite; on
    every process, and the checkpoints before stay. layers: those in which anything is trained; beat: called while it
    waits; record: gets what each cost.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        keep: Keep,
        layers: Sequence[int],
        beat: Callable[[], None] = lambda: None,
        record: Callable[[dict[str, Any]], None] = lambda cost: None,
    ) -> None:
        self.engine, self.folder, self.keep, self.layers = engine, folder, keep, layers
        self.beat, self.record = beat, record
        self.pending: Save | None = None
        self.removal: threading.Thread | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Begin to save checkpoint `state["step"]`; one in flight is waited for."""
        self.wait()
        whole = {**state, "optimizer": self.engine.trainer_state}
        self._begin(self.folder / step_name(state["step"]), (WEIGHTS, *MOMENTS), whole)

    def save_weights(self, folder: Path) -> None:
        """Write the model's whole weights to `folder`, a file a layer and their checksums, and wait for them."""
        self.wait()
        self._begin(folder, (".",), {})
        self.wait()

    def poll(self) -> None:
        """Give a save in flight its name, where every process has written its part."""
        if self.pending is not None and not self.engine.mesh.any_rank(self.pending.writer.is_busy):
            self.complete()

    def wait(self) -> None:
        """`complete`, and wait until the checkpoints that it replaces are removed."""
        self.complete()
        if self.removal is not None:
            self.removal.join()

    def complete(self) -> None:
        """Wait for the save in flight, where there is one: what it saved is on the disk when this returns."""
        if self.pending is None:
            return
        save, started = self.pending, time.perf_counter()
        self.pending = None
        while self.engine.mesh.any_rank(save.writer.is_busy):
            self.beat()
            save.writer.join(POLL_SECONDS)
        _finish(save, self.engine.mesh)
        if self.engine.mesh.is_main and save.state:
            gone = [withdraw(path) for path in to_remove(self.folder, self.keep, at_most=save.state["step"])]
            self.removal = threading.Thread(target=remove_all, args=(gone,), daemon=True)
            self.removal.start()
        self.engine.mesh.barrier()
        save.stall_seconds += time.perf_counter() - started
        if save.state:
            self._record(save)

    def _begin(self, folder: Path, what: Sequence[str], state: dict[str, Any]) -> None:
        """Copy what is to be saved; a thread writes it."""
        mesh, started = self.engine.mesh, time.perf_counter()
        partial = folder.with_name(f"{folder.name}.partial")
        expected = {str(Path(kind) / layer_file(index)) for kind in what for index in self.layers}
        _raise_together(_make(partial, what) if mesh.is_main else None, mesh)
        save = Save(folder, partial, what, expected, state, Writer(partial))
        for kind in what:
            for index, layer in _layers(self.engine, WEIGHTS if kind == "." else kind):
                save.writer.put(str(Path(kind) / layer_file(index)), layer)
        save.writer.start()
        save.stall_seconds = time.perf_counter() - started
        self.pending = save

    def _record(self, save: Save) -> None:
        """Record what a checkpoint cost: seconds that training waited and that writing took, and GB/s."""
        own = sum(size for size, _ in save.writer.written.values())
        parts = self.engine.mesh.all_gather_object((save.writer.seconds, own))
        drain, total = max(seconds for seconds, _ in parts), sum(size for _, size in parts)
        cost = {
            "step": save.state["step"],
            "bytes": total,
            "stall_seconds": round(save.stall_seconds, 4),
            "drain_seconds": round(drain, 4),
            "gigabytes_per_second": round(total / max(drain, 1e-9) / 1e9, 4),
        }
        if self.engine.mesh.is_main:
            with contextlib.suppress(OSError):  # the checkpoint is there
                append_records(self.folder.parent / SAVES, [cost])
        self.record(cost)


def _layers(engine: Engine, what: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The layers whose values this process is given, in host memory. Every process runs through it."""
    for index, named in groupby(engine.full_state(what), key=lambda pair: int(pair[0].partition(".")[0])):
        layer = {name.partition(".")[2]: value.contiguous() for name, value in named if value is not None}
        if layer:
            yield index, layer


def _make(partial: Path, what: Sequence[str]) -> str | None:
    """Make the folders that are written to; why they cannot be made, in words."""
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for kind in what:
            (partial / kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{node_name()}: {partial} cannot be written ({error})"
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


def _publish(save: Save, written: dict[str, tuple[int, str]]) -> str | None:
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
    try:
        publish(save.partial, save.folder, save.what, {**save.state, **listing(written)})
    except OSError as error:
        return f"{node_name()}: {save.folder} cannot be written ({error})"
    return None


def _raise_together(problem: str | None, mesh: ProcessMesh) -> None:
    """`NodeError` on every process where one has a problem: one that raised alone would leave the others waiting."""
    problems = [each for each in mesh.all_gather_object(problem) if each is not None]
    if problems:
        raise NodeError(problems[0])
