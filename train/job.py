"""What every stage of a run shares: the world of processes, the run's folder, the data, the chosen kernels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conf.check import ConfigError, check
from conf.choices import Precision
from conf.schema import Settings
from model.kernels import Operations, select
from parallel.layout import World, build_world
from train.data.documents import DataError
from train.data.prepare import Prepared, find
from train.hardware import peak_tflops, resolve_precision, slow_products
from train.preflight import compare_clocks, meet
from train.run_directory import open_run, write_json


@dataclass(frozen=True)
class Job:
    """A run that is under way in this process."""

    settings: Settings
    folder: Path
    data: Prepared
    world: World
    precision: Precision
    operations: Operations
    peak_tflops: float

    def say(self, line: str) -> None:
        """Show `line` once, whatever the number of processes."""
        if self.world.is_main:
            print(line, flush=True)

    def write(self, path: Path, value: Any) -> None:
        """Keep `value` as JSON, written once."""
        if self.world.is_main:
            write_json(path, value)


def open_job(settings: Settings) -> Job:
    """Join the other processes, open the run's folder and the prepared data, choose precision and kernels.

    Errors: `ConfigError` for settings that these devices or this folder cannot serve; `DataError` without data;
    `NodeError` for a machine that is not fit.
    """
    data = find(settings)
    if data is None:
        raise DataError("the data is not prepared; run `python -m train.prepare` with the same settings first")
    meet(settings)
    layout = settings.layout
    world = build_world(
        layout.tensor_parallel_size, layout.pipeline_parallel_size, layout.sequence_parallel, layout.overlap
    )
    precision = resolve_precision(layout.precision, world.device)
    settings = replace(settings, layout=replace(layout, precision=precision))
    check(settings, world.size)
    folder = Path(on_main(world, lambda: str(open_run(settings, data.directory / "tokenizer"))))
    operations = select(settings.kernels)
    peak, source = peak_tflops(world.device, precision)
    peak = settings.cluster.peak_tflops or peak
    job = Job(settings, folder, data, world, precision, operations, peak)
    job.say(
        f"{world.size} processes on {world.device.type}: tensor {world.tensor.size} x pipeline {world.pipeline_size} "
        f"x data {world.data_size}, ZeRO-{layout.zero_stage}, {precision.value}"
    )
    if slow_products(world.device, precision):
        job.say("warning: this CPU has no bf16 products; torch's stand-in is about 100 times slower than fp32")
    compare_clocks(world)
    if world.size > 1:
        job.say(f"all-reduce over every process: {world.all_reduce_bandwidth():.2f} GB/s")
    job.say(f"kernels: {', '.join(f'{operation} {form}' for operation, form in operations.describe().items())}")
    job.say(
        f"peak of one device: {peak:.2f} TFLOP/s ({'cluster.peak_tflops' if settings.cluster.peak_tflops else source})"
    )
    return job


def on_main(world: World, action: Callable[[], Any]) -> Any:
    """What `action` returns on the main process, on every process; its error too, so that none waits for the rest."""
    result: Any = None
    if world.is_main:
        try:
            result = action()
        except (ConfigError, OSError) as error:
            result = error
    result = world.from_main(result)
    if isinstance(result, Exception):
        raise ConfigError(str(result))
    return result
