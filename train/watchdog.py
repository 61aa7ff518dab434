"""A watchdog a rank: a run that does not go on says which rank is to blame and where every rank is, and ends.

A collective waits for a process that does not come as long as its own limit, and then names the one that waited. Here
each rank gives a sign of life at every step and section; a rank that gives none for too long writes the stacks of all
its threads to `hangs/rank_<n>.txt`. A rank that cannot even do that (stopped, its node gone) is to blame; else those
that are not waiting in a collective.
"""

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conf.exit_codes import HUNG

HANGS = "hangs"
START_SECONDS = 600.0  # until the first step is done no less is a hang: engines are built, kernels compiled
LONGER = 10.0  # times the setting, of what is no step: validation, samples of benchmarks, a save
STEPS = 20  # as many of the longest step so far are no hang
WAITING = ("torch/distributed", "deepspeed/comm")  # where the stack of a rank is that waits for others
OURS = ("train/", "parallel/", "model/")


class Watchdog:
    """Watches this process. seconds: without a sign of life that are a hang; nodes: of every rank, by rank."""

    def __init__(
        self, run: Path, rank: int, nodes: Sequence[str], seconds: float, end: Callable[[int], Any] = os._exit
    ) -> None:
        self.folder, self.rank, self.nodes, self.seconds, self.end = run / HANGS, rank, nodes, seconds, end
        self.place, self.since, self.longest_step = "start", time.monotonic(), 0.0
        self.main = threading.get_ident()
        self.ended = threading.Event()
        self.folder.mkdir(exist_ok=True)
        self._report_file(rank).unlink(missing_ok=True)
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.thread.start()

    def beat(self, place: str) -> None:
        """Give a sign of life: what was under way is done, and `place` begins, such as "nl step 12"."""
        now = time.monotonic()
        if " step " in self.place:
            self.longest_step = max(self.longest_step, now - self.since)
        self.place, self.since = place, now

    def close(self) -> None:
        """End the watch."""
        self.ended.set()
        self.thread.join()

    @property
    def timeout(self) -> float:
        """Seconds without a sign of life that are a hang: the setting, and no less than some of the longest step."""
        setting = self.seconds if " step " in self.place else LONGER * self.seconds
        return max(setting, STEPS * self.longest_step if self.longest_step else START_SECONDS)

    def _watch(self) -> None:
        interval, woken = self.seconds / 20, time.monotonic()
        while not self.ended.wait(interval):
            now = time.monotonic()
            if now - woken > self.seconds / 2:  # this whole process was stopped, and goes on
                self.since = now
            woken = now
            if now - self.since > self.timeout:
                self._report()
                self._wait_for_reports()
                self.end(HUNG)
                return

    def _report(self) -> None:
        """Write this rank's place, and the stacks of its threads, for people and for the rank that speaks."""
        frames = traceback.extract_stack(sys._current_frames()[self.main])
        own = next(
            (frame for frame in reversed(frames) if any(f"/{part}" in frame.filename for part in OURS)), frames[-1]
        )
        waits = any(part in frame.filename for frame in frames for part in WAITING)
        head = {
            "rank": self.rank,
            "node": self.nodes[self.rank],
            "place": self.place,
            "line": f"{'/'.join(Path(own.filename).parts[-2:])}:{own.lineno} {own.name}",
            "waits": waits,
        }
        partial = self.folder / f"rank_{self.rank}.partial"
        with partial.open("w") as file:
            file.write(json.dumps(head) + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        partial.rename(self._report_file(self.rank))

    def _wait_for_reports(self) -> None:
        """Give the others time to report; then the lowest rank that did says who is to blame."""
        until = time.monotonic() + max(2.0, self.seconds / 4)
        while time.monotonic() < until and not all(self._report_file(rank).exists() for rank in range(len(self.nodes))):
            time.sleep(0.1)
        reports = {rank: json.loads(path.read_text().partition("\n")[0]) for rank, path in self._reports()}
        if self.rank == min(reports):
            print(
                f"error: {blame(reports, self.nodes, self.timeout)} (stacks: {self.folder})",
                file=sys.stderr,
                flush=True,
            )

    def _reports(self) -> list[tuple[int, Path]]:
        found = [(rank, self._report_file(rank)) for rank in range(len(self.nodes))]
        return [(rank, path) for rank, path in found if path.exists()]

    def _report_file(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}.txt"


def blame(reports: dict[int, dict[str, Any]], nodes: Sequence[str], seconds: float) -> str:
    """Who keeps the others waiting, and where. reports: of the ranks that wrote one, by rank; nodes: of all ranks."""
    place = reports[min(reports)]["place"]
    silent = [rank for rank in range(len(nodes)) if rank not in reports]
    if silent:
        names = ", ".join(f"rank {rank} on {nodes[rank]}" for rank in silent[:8])
        return f"{names}: no sign of life for {seconds:.0f} s in {place}, and the others wait"
    busy = [rank for rank, report in reports.items() if not report["waits"]] or list(reports)
    names = ", ".join(f"rank {rank} on {nodes[rank]} at {reports[rank]['line']}" for rank in busy[:8])
    return f"{names}: no progress for {seconds:.0f} s in {reports[busy[0]]['place']}"
