"""`profile=steps`: a few optimizer steps of a stage under torch's profiler, and a table of where their time goes."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from torch.profiler import ProfilerActivity, profile, record_function, schedule

from conf.run_folder import PROFILE, stage_folder, write_atomic
from train.context import RunContext
from train.meter import Meter
from train.time_shares import STEP, read_trace, time_table


class StepProfile:
    """Writes stages/STAGE/profile/: rank_N.json.gz, which https://ui.perfetto.dev opens, and table.md.

    A context manager around the stage's steps: where they end early, there is a warning and no table.
    One process of each pipeline stage is traced: the others of it do the same. The profiler itself takes time, on a CPU
    much more than on a GPU, so the shares are to be read, not the seconds.
    """

    def __init__(self, context: RunContext, name: str, done: int, meter: Meter) -> None:
        """done: the steps that the stage has behind it."""
        self.context, self.name, self.meter, self.settings = context, name, meter, context.settings.profile
        self.folder, mesh = stage_folder(context.folder, name) / PROFILE, context.mesh
        self.left = self.settings.skip + self.settings.steps if self.settings.steps else 0
        if self.left > (to_come := context.settings.stages[name].steps - done):
            context.log(
                f"warning: no profile of stage {name}: {to_come} steps are left, and profile.skip={self.settings.skip} "
                f"and profile.steps={self.settings.steps} take {self.left}"
            )
            self.left = 0
        self.profiler: profile | None = None
        if self.left and mesh.tp.rank == mesh.dp_rank == 0:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells each start and stop to the terminal
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if mesh.device.type == "cuda" else [])]
            warmup = min(self.settings.skip, 1)  # the first step that a GPU's profiler sees is slow
            plan = schedule(wait=self.settings.skip - warmup, warmup=warmup, active=self.settings.steps, repeat=1)
            self.profiler = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
            self.profiler.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the profiler where it goes on: a second one that begins beside it would end the process."""
        if self.profiler is not None:
            self.profiler.stop()
        if self.left:
            self.context.log(f"warning: no profile of stage {self.name}: its steps ended {self.left} too early")

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around an optimizer step; after the last one that is profiled, the table is written and logged."""
        if not self.left:
            yield
            return
        with record_function(STEP):
            yield
        self.left -= 1
        if self.profiler is not None:
            self.profiler.step()
        if not self.left:
            self._finish()

    def _write(self, profiler: profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / f"rank_{self.context.mesh.rank}.json.gz"))

    def _finish(self) -> None:
        began, own = time.perf_counter(), None
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None
            own = read_trace(self.folder / f"rank_{self.context.mesh.rank}.json.gz")
        found = {rank: each for rank, each in enumerate(self.context.mesh.all_gather_object(own)) if each is not None}
        if self.context.mesh.is_main:
            table = time_table(found)
            write_atomic(self.folder / "table.md", table)
            self.context.log(f"profile of {self.settings.steps} steps, in {self.folder}:\n{table}")
        self.meter.leave_out(time.perf_counter() - began)
