"""What every stage of a run shares: process mesh, run folder, data, precision, kernels."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conf.check import AUTO, check
from conf.choices import Precision
from conf.errors import ConfigError, DataError, NodeError, node_name
from conf.run_folder import run_folder, write_json
from conf.run_lock import owner, run_lock
from conf.schedule import count_steps
from conf.schema import Settings
from model.dtypes import DTYPES
from model.kernels import Kernels, select_kernels
from parallel.deepspeed_internals import version_warning
from parallel.mesh import ProcessMesh, build_mesh
from parallel.rendezvous import leave
from train.batch_size import find_micro_batch_size
from train.data.prepare import PreparedData, find_prepared
from train.gpu_node import bind_to_gpu, torch_warning
from train.hardware import emulates_bf16, peak_tflops, resolve_precision
from train.logs import LOGGER, open_log
from train.preflight import compare_clocks, run_preflight
from train.run_directory import open_run
from train.watchdog import Watchdog


@dataclass(frozen=True)
class RunContext:
    """The open run, in this process. peak_tflops: of one device, for MFU; None: not known."""

    settings: Settings
    folder: Path
    data: PreparedData
    mesh: ProcessMesh
    precision: Precision
    kernels: Kernels
    peak_tflops: float | None
    watchdog: Watchdog

    def log(self, line: str) -> None:
        """Log `line` on the main process, to the terminal and to the run's log file; `warning: ...` as a warning."""
        if self.mesh.is_main:
            level = logging.WARNING if line.startswith("warning: ") else logging.INFO
            LOGGER.log(level, "%s", line.removeprefix("warning: "))

    def write(self, path: Path, value: Any) -> None:
        """Write `value` as JSON, on the main process only."""
        if self.mesh.is_main:
            write_json(path, value)


@contextmanager
def open_context(settings: Settings, watchdog: Watchdog | None = None) -> Iterator[RunContext]:
    """Join the other processes, open the run's folder and the prepared data, choose precision and kernels.

    The run is locked against other writers (`conf/run_lock.py`) until the block ends; after it the processes part.
    watchdog: of this process, where it is watched already.
    Errors: `ConfigError` for settings that these devices or this folder cannot serve; `DataError` without data;
    `NodeError` for a machine that is not fit.
    """
    data = find_prepared(settings)
    if data is None:
        raise DataError("the data is not prepared; run `python -m train.data prepare` with the same settings first")
    layout, micro_batch_size = settings.layout, settings.layout.micro_batch_size
    if micro_batch_size == AUTO and int(os.environ.get("RANK", "0")) == 0:  # before there is a process group
        micro_batch_size = find_micro_batch_size(settings)
    run_preflight(settings)
    mesh = build_mesh(
        layout.tensor_parallel_size,
        layout.pipeline_parallel_size,
        layout.sequence_parallel,
        layout.tensor_parallel_overlap,
        layout.regather_sequence,
    )
    precision = resolve_precision(layout.precision, mesh.device)
    settings = replace(count_epochs(settings, data), layout=replace(layout, precision=precision))
    if layout.micro_batch_size == AUTO:
        found = mesh.broadcast_object(micro_batch_size)
        settings = replace(settings, layout=replace(settings.layout, micro_batch_size=found))
    check(settings, mesh.size)
    bind_to_gpu(mesh.device)
    kernels = select_kernels(settings.kernels, mesh.device, settings.model, DTYPES[precision])
    with ExitStack() as lock:
        folder = Path(on_main(mesh, lambda: str(_open_locked(settings, data, lock))))
        nodes = mesh.all_gather_object(node_name())
        watchdog = watchdog or Watchdog(folder, mesh.rank, nodes, settings.health.hang_seconds)
        watchdog.nodes = nodes
        lock.callback(watchdog.close)
        yield _context(settings, folder, data, mesh, kernels, watchdog)
        mesh.barrier()  # a launcher takes the end of the others for the main process's, which may still report
        leave()


def _open_locked(settings: Settings, data: PreparedData, lock: ExitStack) -> Path:
    lock.enter_context(run_lock(run_folder(settings), owner(), settings.cluster.lock_seconds))
    digests = {key: files.digest for key, files in data.corpora.items() if files.digest}
    return open_run(settings, data.directory, digests)


def _context(
    settings: Settings, folder: Path, data: PreparedData, mesh: ProcessMesh, kernels: Kernels, watchdog: Watchdog
) -> RunContext:
    layout, precision = settings.layout, settings.layout.precision
    open_log(folder, mesh.rank)
    peak, source = settings.cluster.peak_tflops, "cluster.peak_tflops"
    if peak is None and mesh.device.type == "cuda":  # a CPU's products timed here are no peak: MFU came out above 100%
        peak, source = peak_tflops(mesh.device, precision)
    context = RunContext(settings, folder, data, mesh, precision, kernels, peak, watchdog)
    if (warning := version_warning()) is not None:
        context.log(warning)
    context.log(
        f"{mesh.size} processes on {mesh.device.type}: tensor {mesh.tp.size} x pipeline {mesh.pp_size} "
        f"x data {mesh.dp_size}, ZeRO-{layout.zero_stage}, {precision.value}, "
        f"micro-batches of {settings.layout.micro_batch_size}"
    )
    if emulates_bf16(mesh.device, precision):
        context.log("warning: this device has no bf16 products; torch emulates them, on a CPU about 100 times slower")
    if warning := torch_warning():
        context.log(f"warning: {warning}")
    compare_clocks(mesh, settings.cluster.max_clock_skew_seconds)
    if mesh.size > 1:
        context.log(f"all-reduce over every process: {mesh.all_reduce_bandwidth():.2f} GB/s")
    context.log(f"kernels: {', '.join(f'{operation} {form}' for operation, form in kernels.describe().items())}")
    if peak is not None:
        context.log(f"peak of one device: {peak:.2f} TFLOP/s ({source})")
    return context


def count_epochs(settings: Settings, data: PreparedData) -> Settings:
    """`settings` with the steps of stages whose length is in epochs."""
    return count_steps(settings, {name: len(samples) for name, samples in data.training(settings).items()})


def on_main(mesh: ProcessMesh, action: Callable[[], Any]) -> Any:
    """Run `action` on the main process and return its result on every process; an error is raised on every process."""
    result: Any = None
    if mesh.is_main:
        try:
            result = action()
        except (ConfigError, NodeError, OSError) as error:
            result = error
    result = mesh.broadcast_object(result)
    if isinstance(result, NodeError):  # such as a full disk
        raise result
    if isinstance(result, Exception):
        raise ConfigError(str(result))
    return result
