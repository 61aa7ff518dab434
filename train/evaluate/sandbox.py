"""Programs that a model wrote are hostile: each runs by itself, with nothing to break and a bounded time to try.

The program passes where its harness comes to its end: trusted Python, in a process of its own that the program cannot
reach, with the program as `program` (`Program` in channel.py: `run()`, `evaluate(expression)`, `function(name)`).
Without a harness a program passes that says it reached its end, which it may say falsely.
"""

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from conf.choices import Sandbox

SCRIPT = Path(__file__).with_name("sandboxed.py")
COMMAND = [sys.executable, "-I", "-S", str(SCRIPT)]
# User ids that no program has now: programs with one id would share a bound on the number of processes, and the sweep
# after one would end the other. Another evaluation on this machine has others.
USERS: SimpleQueue[int] = SimpleQueue()
for number in range(256):
    USERS.put(200_000 + os.getpid() * 256 + number)
SWEEP = "import os, sys; user = int(sys.argv[1]); os.setresuid(user, user, user); os.kill(-1, 9)"
SETUP_FAILED = 125
REACHES_ITS_END = "program.run()"


class SandboxError(Exception):
    """This machine runs no program at all; one line says why."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one program, and whether it may run where these bounds are all there is."""

    seconds: float
    memory_bytes: int = 4 * 2**30
    file_bytes: int = 64 * 2**20
    output_bytes: int = 2**20
    processes: int = 32
    sandbox: Sandbox = Sandbox.full


@dataclass(frozen=True)
class Trial:
    """A program and the harness that tests it, both Python."""

    source: str
    harness: str = REACHES_ITS_END


@dataclass(frozen=True)
class Outcome:
    """What became of a program. passed: the harness came to its end in time. output: the end of what was printed."""

    passed: bool
    detail: str
    output: str


@functools.cache
def isolation() -> str | None:
    """None where the kernel shuts programs off from network, files and processes; else why it does not."""
    done = _run_empty(isolate=True)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removeprefix("sandbox: ")


def check_isolation(sandbox: Sandbox) -> None:
    """Errors: `SandboxError` where programs would run with limits alone and `sandbox` does not allow that."""
    if isolation() is not None and sandbox is not Sandbox.limits_only:
        raise SandboxError(
            f"programs cannot be shut off from files and other processes here ({isolation()}); run as root or allow "
            "user namespaces, or accept limits on time and memory alone with sandbox=limits_only"
        )


def run_program(trial: Trial | str, limits: Limits) -> Outcome:
    """Run a program with its harness and say whether it passed. The sandbox is gone when this returns.

    Errors: `SandboxError`.
    """
    check_isolation(limits.sandbox)
    seconds = limits.seconds + _overhead()  # measured before a user id is taken: it needs one itself
    with tempfile.TemporaryDirectory(prefix="program-") as folder, _user() as user:
        task = _task(Trial(trial) if isinstance(trial, str) else trial, limits, isolation() is None, user)
        if not task["isolate"]:
            os.chmod(folder, 0o777)  # the program's user is another
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        )
        try:
            detail, output = _watch(process, json.dumps(task).encode(), limits, seconds)
        finally:
            _kill(process)
            if not task["isolate"] and os.geteuid() == 0:  # what left the group runs on, as a user of its own
                subprocess.run([*COMMAND[:-1], "-c", SWEEP, str(user)], stderr=subprocess.DEVNULL, check=False)
        lines = process.stderr.read().decode(errors="replace").splitlines() if process.stderr else []
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    said = {name: rest for name, _, rest in (line.partition(": ") for line in lines)}  # a linker may have spoken too
    if process.returncode == SETUP_FAILED and "sandbox" in said:
        raise SandboxError(f"programs cannot be run here ({said['sandbox']}); use a Python that every user can read")
    passed = not detail and process.returncode == 0
    return Outcome(
        passed,
        "" if passed else detail or said.get("result", f"exit code {process.returncode}"),
        output.decode(errors="replace"),
    )


def run_programs(trials: Iterable[Trial | str], limits: Limits, workers: int | None = None) -> Iterator[Outcome]:
    """Outcomes of many programs, in their order, `workers` at a time (default: a core each)."""
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        yield from pool.map(lambda trial: run_program(trial, limits), trials)


def _watch(process: subprocess.Popen[bytes], task: bytes, limits: Limits, seconds: float) -> tuple[str, bytes]:
    """(what stopped the program, empty where it ended by itself; what it printed). seconds: with the sandbox's own."""
    assert process.stdin is not None and process.stdout is not None
    output = bytearray()
    try:
        process.stdin.write(task)
        process.stdin.close()
    except BrokenPipeError:
        return "sandbox did not start", b""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return f"timed out after {limits.seconds:g} s", bytes(output)
            if not selector.select(left):
                continue
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            output += piece
            if len(output) > limits.output_bytes:
                return f"printed more than {limits.output_bytes} bytes", bytes(output[-limits.output_bytes :])
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"timed out after {limits.seconds:g} s", bytes(output)
    return "", bytes(output)


@functools.cache
def _overhead() -> float:
    """Seconds that an empty program takes here, beside which its own time is counted."""
    start = time.monotonic()
    _run_empty(isolate=isolation() is None)
    return 2 * (time.monotonic() - start)


def _run_empty(isolate: bool) -> subprocess.CompletedProcess[str]:
    with _user() as user:
        return subprocess.run(
            COMMAND,
            input=json.dumps(_task(Trial(""), Limits(seconds=10), isolate, user)),
            capture_output=True,
            text=True,
            check=False,
        )


@contextlib.contextmanager
def _user() -> Iterator[int]:
    """A user id that is this program's alone until the block ends; waits where all are in use."""
    user = USERS.get()
    try:
        yield user
    finally:
        USERS.put(user)


def _task(trial: Trial, limits: Limits, isolate: bool, user: int) -> dict[str, Any]:
    """What sandboxed.py reads. Links on the way to this Python are followed here: inside they may not be."""
    folder, name = os.path.split(sys.executable)
    visible = {path: os.path.realpath(path) for path in _python_folders()}
    places = tuple(f"{real}/" for real in visible.values())
    return {
        "source": trial.source,
        "harness": trial.harness,
        "python": os.path.join(os.path.realpath(folder), name),
        "visible": visible,
        "paths": [path for path in map(os.path.realpath, sys.path) if path.startswith(places)],
        "user": user,
        "evaluator": os.getpid(),
        "isolate": isolate,
        "limits": {
            "cpu_seconds": max(1, round(limits.seconds) + 1),
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
            "processes": limits.processes,
        },
    }


def _python_folders() -> Iterator[str]:
    """The folders of this Python, as they are spelled and as the links of its executable spell them."""
    yield from {os.path.abspath(sys.prefix), os.path.abspath(sys.base_prefix)}
    path = os.path.join(os.path.realpath(os.path.dirname(sys.executable)), os.path.basename(sys.executable))
    bases = (os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))
    while os.path.islink(path):
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        folder = os.path.dirname(os.path.dirname(path))
        if os.path.realpath(folder) in bases:
            yield folder


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the sandbox: with the first process of its namespace, the kernel ends all the others."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
