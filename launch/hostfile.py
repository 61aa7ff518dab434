"""Several machines without a scheduler: the deepspeed launcher on each, started through pdsh or ssh."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conf.choices import RemoteShell
from conf.errors import ConfigError
from conf.schema import ClusterConfig
from conf.secrets import is_secret, secrets_in
from launch.local import train_command

# A host that has gone is noticed within a minute.
SSH = [
    "ssh",
    *(word for option in ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15") for word in ("-o", option)),
]
FORWARDED = (  # prefixes of the environment variables that every host gets
    "NCCL_",
    "WANDB_",
    "HF_",
    "PYTHON",
    "DS_",
    "OMP_",
    "CUDA_",
    "LD_LIBRARY_PATH",
    "PATH",
    "TMPDIR",
)


def read_hostfile(cluster: ClusterConfig) -> dict[str, int]:
    """Host -> its processes, in the file's order.

    Errors: `ConfigError` for a file that is missing, a line that cannot be read, a host named twice.
    """
    path = Path(cluster.hostfile or "")
    if not path.is_file():
        raise ConfigError(f"cluster.hostfile={cluster.hostfile} is not a file; write lines such as 'node1 slots=8'")
    slots: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"([A-Za-z0-9_.:-]+)\s+slots=(\d+)", text)
        if not found or int(found[2]) < 1:
            raise ConfigError(f"{path}:{number}: '{text}' is not a line such as 'node1 slots=8'")
        if found[1] in slots:
            raise ConfigError(f"{path}:{number}: host {found[1]} stands there twice")
        slots[found[1]] = int(found[2])
    if not slots:
        raise ConfigError(f"{path} names no host; write lines such as 'node1 slots=8'")
    return slots


def main_address(cluster: ClusterConfig, slots: dict[str, int]) -> str:
    """The first host's IP address, asked over ssh: a name in the hostfile may be known to ssh only.

    Errors: `ConfigError` naming every host that does not answer, or the remote shell that is missing.
    """
    for program in {"ssh", cluster.remote_shell.value}:
        if shutil.which(program) is None:
            raise ConfigError(f"there is no {program} on this machine; install it or set cluster.remote_shell=ssh")
    with ThreadPoolExecutor(64) as pool:
        answers = dict(zip(slots, pool.map(_answer, slots), strict=True))
    silent = [f"{host} ({said})" for host, (answered, said) in answers.items() if not answered]
    if silent:
        said = f"no answer from {', '.join(silent)}; ssh must work without a password"
        left = len(slots) - len(silent)
        raise ConfigError(
            f"{said}; to go on with the other {left}, take them out of {cluster.hostfile}" if left else said
        )
    first = next(iter(slots))
    return (answers[first][1].split() or [first])[0]


def _answer(host: str) -> tuple[bool, str]:
    """(whether the host answers, its addresses or ssh's message)."""
    done = subprocess.run([*SSH, host, "hostname -I"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return True, done.stdout
    return False, (done.stderr.strip().splitlines() or ["no reason given"])[-1]


@contextlib.contextmanager
def secrets_file(path: Path) -> Iterator[None]:
    """A file at `path`, readable by this user only, that exports the secrets among the forwarded variables.

    It is there while the block runs, beside the run's folder, on the file system that the hosts share: a command line
    is seen by every user.
    """
    forwarded = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in secrets_in(forwarded).items())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def remote_command(
    cluster: ClusterConfig,
    slots: dict[str, int],
    address: str,
    overrides: list[str],
    variables: dict[str, str],
    secrets: Path,
    stop: Path,
) -> list[str]:
    """The command that starts the ranks on every host and ends when the last has ended.

    address: of the first host. Where one host's launcher fails, the others' ranks fail in their next collective.
    secrets: a file that exports what must not stand on a command line, `secrets_file`. stop: the
    file by which the launch asks the ranks to stop.
    """
    forwarded_here = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    kept = {name: value for name, value in forwarded_here.items() if not is_secret(name)} | variables
    forwarded = [f"{name}={value}" for name, value in {**kept, "NODES": " ".join(slots)}.items()]

    def on(node: str) -> str:
        host = [sys.executable, "-m", "launch.host", str(stop.absolute()), f"{cluster.grace_seconds:g}"]
        command = [*host, *train_command(overrides, slots, address, cluster.port, node)]
        own = f". {shlex.quote(str(secrets.absolute()))} && "
        return f"{own}cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*forwarded, *command])}"

    if cluster.remote_shell is RemoteShell.pdsh:
        return ["pdsh", "-S", "-R", "ssh", "-f", "1024", "-w", ",".join(slots), on("%n")]
    # A shell gives what it starts in the background no standard input of its own accord.
    starts = [f"{shlex.join([*SSH, host, on(str(node))])} <&0 & pids+=($!)" for node, host in enumerate(slots)]
    waits = 'code=0; for pid in "${pids[@]}"; do wait "$pid" || code=$?; done; exit "$code"'
    return ["bash", "-c", "\n".join(["pids=()", *starts, waits])]
