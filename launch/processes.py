"""A command with processes below it: its signals, its log, and what becomes of it when one of them dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from conf.exit_codes import BAD_INPUT, BAD_NODE, INTERRUPTED

WATCH_SECONDS = 0.2  # between looks at which ranks are alive
GRACE_SECONDS = 10.0  # from the end of the first rank to the end of the last


def run(
    command: list[str],
    variables: dict[str, str],
    log: Path | None = None,
    stop: Callable[[psutil.Process], None] | None = None,
) -> int:
    """Run `command` and return its exit code; `INTERRUPTED` where SIGINT or SIGTERM came.

    The command has a session of its own: a Ctrl-C reaches only this process, which tells the ranks by `stop`, and no
    process of theirs (W&B's must outlive the signal). A second one kills everything. log: a copy of the output.
    """
    signals: list[int] = []
    pipe = None if log is None else subprocess.PIPE
    with subprocess.Popen(command, env=variables, start_new_session=True, stdout=pipe, stderr=pipe) as process:

        def forward(number: int, _: FrameType | None) -> None:
            signals.append(number)
            if len(signals) == 1:
                print("stopping: the run saves itself first; once more to kill it", file=sys.stderr, flush=True)
                (stop or stop_children)(psutil.Process(process.pid))
            else:
                os.killpg(process.pid, signal.SIGKILL)

        previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        copiers = [
            threading.Thread(target=_copy, args=(source, sink, log), daemon=True)
            for source, sink in ((process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer))
            if source is not None
        ]
        for copier in copiers:
            copier.start()
        try:
            first = first_to_end(process)
            code = process.wait()
            for copier in copiers:
                copier.join(timeout=GRACE_SECONDS)  # a process that outlives the ranks may hold the pipe
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if signals:
        return INTERRUPTED
    if code not in (0, BAD_INPUT, BAD_NODE) and first is not None:  # those have said why
        print(f"error: rank {first[0]} (process {first[1]}) ended first; the others were stopped", file=sys.stderr)
    return code if code >= 0 else 128 - code


def stop_children(launcher: psutil.Process) -> None:
    """Ask the ranks, the launcher's children, to stop; the command itself where it has none."""
    for rank in launcher.children() or [launcher]:
        rank.send_signal(signal.SIGTERM)


def _copy(source: IO[bytes], sink: IO[bytes], log: Path) -> None:
    with log.open("ab") as file:
        for line in source:
            for target in (sink, file):
                target.write(line)
                target.flush()


def first_to_end(process: subprocess.Popen[bytes]) -> tuple[int, int] | None:
    """Watch the launcher `process` to its end: rank and process id of the rank that ended first, None without ranks.

    Ranks end together. Where one is gone and another still runs after `GRACE_SECONDS`, it waits for a rank that will
    never answer, and is killed.
    """
    ranks: dict[int, int] = {}
    first, since = None, 0.0
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
            first, since = ended[0], time.monotonic()
        if first is not None and time.monotonic() > since + GRACE_SECONDS:
            for child in alive:
                child.kill()
    return first
