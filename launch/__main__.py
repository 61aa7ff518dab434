"""`python -m launch key=value ...`: compose the settings, check them, prepare the data, start the processes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from types import FrameType

import psutil

from conf.check import ConfigError, check
from conf.compose import compose_settings
from conf.exit_codes import BAD_INPUT, INTERRUPTED
from conf.run_folder import check_run_folder, run_folder
from launch.local import environment, train_command, world_size

WATCH_SECONDS = 0.2  # between looks at which ranks are alive
GRACE_SECONDS = 10.0  # from the end of the first rank to the end of the last


def main(words: list[str]) -> int:
    """Run the job that `words` describe and return its exit code."""
    try:
        settings = compose_settings(words)
        processes = world_size(settings.cluster, settings.layout)
        check(settings, processes)
        resumes = check_run_folder(settings)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    overrides = [word for word in words if not word.startswith("dry_run=")]
    steps = [[sys.executable, "-m", "train.prepare", *overrides], train_command(overrides, processes)]
    print(f"{'going on with' if resumes else 'starting'} {run_folder(settings)}: {processes} processes", flush=True)
    if settings.dry_run:
        print(*(shlex.join(step) for step in steps), sep="\n")
        return 0
    for step in steps:
        code = run(step, environment(processes))
        if code:
            return code
    return 0


def run(command: list[str], variables: dict[str, str]) -> int:
    """Run `command` and return its exit code; `INTERRUPTED` where SIGINT or SIGTERM came.

    The command has a session of its own: a Ctrl-C reaches only this process, which tells the ranks, the launcher's
    children, and no process of theirs (W&B's must outlive the signal). A second one kills everything.
    """
    signals: list[int] = []
    with subprocess.Popen(command, env=variables, start_new_session=True) as process:

        def forward(number: int, _: FrameType | None) -> None:
            signals.append(number)
            if len(signals) == 1:
                print("stopping: the run saves itself first; once more to kill it", file=sys.stderr, flush=True)
                for rank in psutil.Process(process.pid).children() or [process]:
                    rank.send_signal(signal.SIGTERM)
            else:
                os.killpg(process.pid, signal.SIGKILL)

        previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            first = first_to_end(process)
            code = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if signals:
        return INTERRUPTED
    if code and first is not None:
        print(f"error: rank {first[0]} (process {first[1]}) ended first; the others were stopped", file=sys.stderr)
    return code if code >= 0 else 128 - code


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
