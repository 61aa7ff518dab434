"""`python -m launch key=value ...`: compose the settings, check them, prepare the data, start the processes."""

import os
import shlex
import signal
import subprocess
import sys
from types import FrameType

import psutil

from conf.check import ConfigError
from conf.compose import compose_settings
from conf.run_folder import check_run_folder, run_folder
from launch.local import environment, train_command, world_size

BAD_INPUT = 2  # exit code for what the user can put right
INTERRUPTED = 75  # exit code of a run that was asked to stop and can go on (EX_TEMPFAIL)


def main(words: list[str]) -> int:
    """Run the job that `words` describe and return its exit code."""
    try:
        settings = compose_settings(words)
        processes = world_size(settings.cluster, settings.layout)
        settings = compose_settings(words, processes)
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
            code = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if signals:
        return INTERRUPTED
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
