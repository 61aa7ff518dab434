"""Which processes of this machine live, read from Linux's /proc; elsewhere nothing is known.

A process id alone says little: of another machine or container, or of before a restart, it is another process's, and
ids are used again. `machine` names the only place where an id has its meaning, and `began` tells two of one id apart.
"""

import os
from pathlib import Path

PROC = Path("/proc")


def machine() -> str | None:
    """Names this start of this machine's kernel and this process's id space, a container's own; None: not known."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return None


def began(process: int) -> int | None:
    """When a process was started, in the kernel's ticks since its own start; None where there is no such process."""
    try:
        words = (PROC / str(process) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    ended = words[0] in "ZX"  # and was not yet waited for; proc_pid_stat(5)
    return None if ended else int(words[19])


def any_with(variable: str, value: str) -> bool:
    """Whether a process lives that was started with the environment variable `variable` at `value`.

    Those whose environment this user may not read count as none of them.
    """
    wanted = f"{variable}={value}".encode()
    for folder in PROC.glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                return True
        except OSError:  # another user's, or it has just ended
            continue
    return False
