"""A watchdog a rank: a run that hangs says which rank is to blame and where every rank is, and ends.

A collective waits for a process that does not come as long as its own limit, and then names the one that waited. Here
each rank gives a sign of life at every step and section, and within those that are long; a rank that gives none for too
long writes the collective that it waits in and the stacks of all its threads to `hangs/rank_<n>.txt`. A rank that
cannot even do that (stopped, its node gone) is to blame; else one that has not begun the collective that the others
wait in, or that waits in none. Before a stage's first step is done nothing has a usual time; then a rank that is
stopped is known by its signs of life (`train/signs.py`).
"""

import contextlib
import faulthandler
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.errors import node_name
from conf.exit_codes import HUNG
from conf.run_folder import is_run_folder, run_folder
from conf.schema import Settings
from train.signs import Signs

HANGS = "hangs"
START_SECONDS = 600.0  # until a stage's first step is done no less is a hang of a rank that gives signs of life
STEPS = 5  # as many usual steps are no hang
NOTICED = 0.75  # of the time allowed, after which stacks are written
OTHERS = 0.15  # of it, for those of other ranks: with a look every twentieth, the line comes within the time allowed
WINDOW = 20  # newest steps whose median is the usual one; the first of a stage is none of them
WAITING = ("torch/distributed", "deepspeed/comm")  # where the stack of a rank is that waits for others
OURS = ("train/", "parallel/", "model/")


class Watchdog:
    """Watches this process. seconds: without a sign of life that are a hang; nodes: of every rank, by rank."""

    def __init__(
        self, run: Path, rank: int, nodes: Sequence[str], seconds: float, end: Callable[[int], Any] = os._exit
    ) -> None:
        self.folder, self.rank, self.nodes, self.seconds, self.end = run / HANGS, rank, nodes, seconds, end
        self.place, self.since = "start", time.monotonic()
        self.steps: deque[float] = deque(maxlen=WINDOW)  # seconds
        self.began = False  # whether the stage's first step is done
        self.main = threading.get_ident()
        self.ended = threading.Event()
        self.folder.mkdir(exist_ok=True)
        self._report_file(rank).unlink(missing_ok=True)
        self.signs = Signs(self.folder, rank, len(nodes), seconds)
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.thread.start()

    def open(self, place: str) -> None:
        """Begin `place`, such as "nl opening": what takes long once, up to the end of a first step."""
        self.beat(place)
        self.began = False

    def beat(self, place: str | None = None) -> None:
        """Give a sign of life: what was under way is done, and `place` begins ("nl step 12"); None: it goes on."""
        now = time.monotonic()
        if place is not None and " step " in self.place:
            if self.began:
                self.steps.append(now - self.since)
            self.began = True
        self.place, self.since = place or self.place, now

    def close(self) -> None:
        """End the watch."""
        self.ended.set()
        self.thread.join()
        self.signs.end()
        with contextlib.suppress(OSError):  # others still give signs there, or a hang was told
            self.folder.rmdir()

    @property
    def timeout(self) -> float:
        """Seconds without a sign of life that are a hang: the setting, and no less than some usual steps."""
        usual = STEPS * statistics.median(self.steps) if self.steps else 0.0
        return max(self.seconds, usual, 0.0 if self.began else START_SECONDS)

    def _watch(self) -> None:
        interval, woken = self.seconds / 20, time.monotonic()
        while not self.ended.wait(interval):
            now = time.monotonic()
            if now - woken > self.seconds / 2:  # this whole process was stopped, and goes on
                self.since = now
                self.signs.forget()
            woken = now
            silent = self.signs.lack(NOTICED * self.seconds)
            if silent or now - self.since > NOTICED * self.timeout:
                self._report()
                self._wait_for_reports(silent)
                self.end(HUNG)
                return

    def _report(self) -> None:
        """Write this rank's place, and the stacks of its threads, for people and for the rank that speaks."""
        frames = traceback.extract_stack(sys._current_frames()[self.main])
        own = next(
            (frame for frame in reversed(frames) if any(f"/{part}" in frame.filename for part in OURS)), frames[-1]
        )
        head = {
            "rank": self.rank,
            "node": node_name(),
            "place": self.place,
            "line": f"{'/'.join(Path(own.filename).parts[-2:])}:{own.lineno} {own.name}",
            "waits": any(part in frame.filename for frame in frames for part in WAITING),
            **_collectives(),
        }
        partial = self.folder / f"rank_{self.rank}.partial"
        with partial.open("w") as file:
            file.write(json.dumps(head) + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        partial.rename(self._report_file(self.rank))

    def _wait_for_reports(self, silent: bool) -> None:
        """Give the others time to report; then the lowest rank that did says who is to blame. silent: as one's signs of
        life tell."""
        until = time.monotonic() + max(1.0, OTHERS * (self.seconds if silent else self.timeout))
        while time.monotonic() < until and not all(self._report_file(rank).exists() for rank in range(len(self.nodes))):
            time.sleep(0.1)
        reports = {rank: json.loads(path.read_text().partition("\n")[0]) for rank, path in self._reports()}
        seconds = self.signs.silence() if silent else time.monotonic() - self.since
        nodes = [known or told for known, told in zip(self.nodes, self.signs.nodes(), strict=True)]
        if self.rank == min(reports):
            print(
                f"error: {blame(reports, nodes, seconds)} (stacks: {self.folder})",
                file=sys.stderr,
                flush=True,
            )

    def _reports(self) -> list[tuple[int, Path]]:
        found = [(rank, self._report_file(rank)) for rank in range(len(self.nodes))]
        return [(rank, path) for rank, path in found if path.exists()]

    def _report_file(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}.txt"


def watch_start(settings: Settings) -> Watchdog | None:
    """Watch a rank of several from its start, before torch is loaded; None where no launcher has made the folder."""
    size, run = int(os.environ.get("WORLD_SIZE", "1")), run_folder(settings)
    if size == 1 or not is_run_folder(run):
        return None
    try:
        return Watchdog(run, int(os.environ["RANK"]), [""] * size, settings.health.hang_seconds)
    except OSError:  # a disk that is full, or is not this node's: preflight says so
        return None


def _collectives() -> dict[str, Any]:
    """`collectives`, and nothing of them where torch's record cannot be read: a rank that is silent would be blamed."""
    try:
        from parallel.flight_recorder import collectives  # torch is being loaded as the watch begins

        return collectives()
    except Exception:
        return {"begun": {}, "groups": {}, "waiting": None}


def blame(reports: Mapping[int, Mapping[str, Any]], nodes: Sequence[str], seconds: float) -> str:
    """Who keeps the others waiting, where, and in what they wait. reports: of the ranks that wrote one, by rank; nodes:
    of all ranks, "" of those that have not come."""
    silent = [rank for rank, node in enumerate(nodes) if node and rank not in reports]
    guilty = silent or _stuck(reports)
    waiting = Counter(report["waiting"] for rank, report in reports.items() if rank not in guilty and report["waiting"])
    others = "".join(f"; {_ranks_in(reports, guilty, words)} in {words}" for words, _ in waiting.most_common(2))
    if silent:
        names = ", ".join(f"rank {rank} on {nodes[rank]}" for rank in silent[:8])
        return f"{names}: no sign of life for {seconds:.0f} s in {reports[min(reports)]['place']}{others}"
    names = ", ".join(f"rank {rank} on {nodes[rank]} at {reports[rank]['line']}" for rank in guilty[:8])
    return f"{names}: no progress for {seconds:.0f} s in {reports[guilty[0]]['place']}{others}"


def _stuck(reports: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """The ranks that are elsewhere than in a collective, or have not begun one that others are in; all without such."""
    from parallel.flight_recorder import behind

    late = behind(reports)
    own = [rank for rank, report in reports.items() if not report["waits"]]  # by its stack in a call of its own
    idle = [rank for rank in own if not reports[rank]["waiting"]]
    ranks = ([rank for rank in idle if rank in late], [rank for rank in own if rank in late], idle, own, sorted(late))
    return next(filter(None, ranks), list(reports))


def _ranks_in(reports: Mapping[int, Mapping[str, Any]], guilty: Sequence[int], words: str) -> str:
    """`rank 0 waits`, `3 ranks wait`: those that wait in the collective `words`."""
    ranks = [rank for rank, report in reports.items() if rank not in guilty and report["waiting"] == words]
    return f"rank {ranks[0]} waits" if len(ranks) == 1 else f"{len(ranks)} ranks wait"
