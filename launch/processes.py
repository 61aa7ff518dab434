"""Running a command and its ranks: signals, the copy of its output, and the end of all ranks when one dies."""

import contextlib
import io
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import psutil  # type: ignore[import-untyped]

from conf.errors import node_name
from conf.exit_codes import BAD_INPUT, BAD_NODE, HUNG, INTERRUPTED, UNHEALTHY
from conf.run_lock import end_with_parent

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = {128 + number for number in STOPPING}  # codes of a run that was asked to stop, and did not save itself
ENDED = {0, BAD_INPUT, UNHEALTHY, INTERRUPTED, *STOPPED}  # codes after which no try helps, and no host is to blame
QUIET = {0, BAD_INPUT, BAD_NODE, UNHEALTHY, HUNG, INTERRUPTED}  # codes of which a line has told, or none is needed
WATCH_SECONDS = 0.2  # between two checks of which ranks are alive


def run(
    command: list[str],
    variables: dict[str, str],
    grace_seconds: float,
    log: Path | None = None,
    stop: Callable[[psutil.Process], None] | None = None,
) -> int:
    """Run `command` with the environment `variables` and return its exit code, `INTERRUPTED` where it saved itself.

    The command runs in a session of its own: a Ctrl-C reaches only this process, which asks the ranks to stop by
    `stop`, and none of their children (W&B's process must outlive the signal). SIGTERM and a closed terminal (SIGHUP)
    do the same. A second signal kills everything. Where this process ends, however that is, so does the command: the
    kernel tells it, and other hosts (host.py) see the end of their standard input, which is held open here.

    grace_seconds: from the end of the first rank to the kill of the others. log: file that gets a copy of the output.
    """
    signals: list[int] = []
    pipe = None if log is None else subprocess.PIPE
    said: set[int] = set()
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
            if signals:  # a shell and the kernel send it both
                return
        signals.append(number)
        if len(signals) == 1:
            with contextlib.suppress(OSError):  # nobody reads it any more
                print("stopping: what was trained is saved first; once more to kill it", file=sys.stderr, flush=True)
        for process in started:
            ask(process)

    def ask(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has just ended
            if len(signals) == 1:
                (stop or stop_children)(psutil.Process(process.pid))
            else:
                os.killpg(process.pid, signal.SIGKILL)

    previous = {number: signal.signal(number, forward) for number in STOPPING}
    with subprocess.Popen(
        command,
        env=variables,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=end_with_parent,
    ) as process:
        started.append(process)
        if signals:  # one came while it was being started
            ask(process)
        copiers = [
            threading.Thread(target=_copy, args=(source, sink, log, said), daemon=True)
            for source, sink in ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
            if source is not None
        ]
        for copier in copiers:
            copier.start()
        try:
            first = first_to_end(process, grace_seconds)
            code = process.wait()
            for copier in copiers:
                copier.join(timeout=grace_seconds)  # a process that outlives the ranks may hold the pipe
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    # Who failed has said why, also a rank that lost another one; who was killed could not. A second signal kills all.
    if code not in QUIET and len(signals) < 2 and first is not None and first[0] not in said:
        line = f"error: rank {first[0]} (process {first[1]} on {node_name()}) ended first; the others were stopped"
        print(line, file=sys.stderr, flush=True)
        if log is not None:
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
                print(line, file=file)
    if signals and code not in (0, INTERRUPTED):
        return 128 + signals[0]
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """End the program, in one line, on a signal while the block runs and no command does, so that it leaves nothing."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        if number == signal.SIGHUP:
            _leave_terminal()
        print("stopped while nothing was being trained", file=sys.stderr, flush=True)
        sys.exit(128 + number)

    previous = {number: signal.signal(number, end) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """Point what goes to a terminal, which is closed, to nowhere: writing to it would fail."""
    for descriptor in (1, 2):
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode) or stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        except OSError:
            regular = False
        if not regular:
            _point_to_nowhere(descriptor)


def _point_to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def stop_children(launcher: psutil.Process) -> None:
    """Ask the ranks, the launcher's children, to stop; the command itself where it has none."""
    for rank in launcher.children() or [launcher]:
        rank.send_signal(signal.SIGTERM)


def _copy(source: IO[bytes], sink: IO[bytes], log: Path, said: set[int]) -> None:
    """Copy lines until the ranks have ended, and note in `said` which of them told of an error.

    Where a line cannot be written they go on: the disk is full, or nobody reads.
    """
    with log.open("ab", buffering=0) as file:
        targets: list[IO[bytes] | io.RawIOBase] = [sink, file]
        for line in source:
            if found := re.match(rb"error: rank (\d+) on ", line):
                said.add(int(found[1]))
            for target in list(targets):
                try:
                    target.write(line)
                    target.flush()
                except OSError:
                    if target is sink:  # its reader has gone; a disk may have room again
                        targets.remove(target)
                        _point_to_nowhere(sink.fileno())  # what it still holds would change the exit code to 120


def first_to_end(process: subprocess.Popen[bytes], grace_seconds: float) -> tuple[int, int] | None:
    """Wait for the launcher `process`: (rank, process id) of the rank that ended first, None without ranks.

    A rank that still runs `grace_seconds` after the first has ended is waiting for that one in a collective, and is
    killed. The seconds are those of this process: where the machine is halted or has no time for it, ranks stand too.
    """
    ranks: dict[int, int] = {}
    first, waited = None, 0.0
    while process.poll() is None:
        time.sleep(WATCH_SECONDS)
        try:
            children = psutil.Process(process.pid).children()
            for child in children:
                if child.pid not in ranks and "RANK" in (variables := child.environ()):
                    ranks[child.pid] = int(variables["RANK"])
            alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        except psutil.Error:
            continue
        ended = sorted((ranks[pid], pid) for pid in ranks.keys() - {child.pid for child in alive})
        if ended and first is None:
            first = ended[0]
        waited += WATCH_SECONDS if first is not None else 0.0
        if waited > grace_seconds:
            for child in alive:
                child.kill()
    return first
