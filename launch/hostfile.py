"""Several machines without a scheduler: the deepspeed launcher on each, started through pdsh or ssh."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conf.choices import RemoteShell
from conf.errors import HOST, ConfigError
from conf.schema import ClusterConfig
from conf.secrets import is_secret, secrets_in
from launch.local import train_command

# A host that has gone is noticed within a minute.
SSH = [
    "ssh",
    *(word for option in ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15") for word in ("-o", option)),
]
WAIT = """\
code=0
for node in "${!pids[@]}"; do
    wait "${pids[$node]}" && continue
    ended=$?
    (( code > 1 )) || code=$ended  # 1 says nothing
    (( ended != 255 )) || echo "error: ${hosts[$node]}: the connection to it ended" >&2
done
exit "$code"
"""
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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
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


def hosts_of(cluster: ClusterConfig) -> tuple[dict[str, int], dict[str, int]]:
    """(host -> its processes, the same of the spare hosts), without those that are left out.

    Errors: as `read_hostfile`; `ConfigError` where a host that is left out is none, or no host is left to train.
    """
    slots = read_hostfile(cluster)
    unknown = [host for host in cluster.exclude if host not in slots]
    if unknown:
        raise ConfigError(f"cluster.exclude={unknown[0]} is no host of {cluster.hostfile}: {', '.join(slots)}")
    kept = {host: count for host, count in slots.items() if host not in cluster.exclude}
    first = len(kept) - cluster.spares
    if first < 1:
        raise ConfigError(f"cluster.spares={cluster.spares} leaves none of the {len(kept)} hosts to train")
    hosts = list(kept.items())
    return dict(hosts[:first]), dict(hosts[first:])


def ask_addresses(hosts: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(host -> its IP address, of those that answer over ssh; host -> what ssh said, of those that do not).

    A name in the hostfile may be known to ssh only.
    """
    with ThreadPoolExecutor(64) as pool:
        answers = dict(zip(hosts, pool.map(_answer, hosts), strict=True))
    addresses = {host: (said.split() or [host])[0] for host, (answered, said) in answers.items() if answered}
    return addresses, {host: said for host, (answered, said) in answers.items() if not answered}


def _answer(host: str) -> tuple[bool, str]:
    """(whether the host answers, its addresses or ssh's message)."""
    done = subprocess.run([*SSH, host, "hostname -I"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return True, done.stdout
    return False, (done.stderr.strip().splitlines() or ["no reason given"])[-1]


@contextlib.contextmanager
def secrets_files(path: Path, hosts: int) -> Iterator[None]:
    """A file for each host, `path` with the host's index after it, that exports the secrets among what is forwarded.

    They stand beside the run's folder, on the file system that the hosts share, readable by this user only: a command
    line is seen by every user. A host removes its own as it has read it; what is left goes as the block or this process
    ends, also where that is killed: a shell waits for the end of its standard input.
    """
    forwarded = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in secrets_in(forwarded).items()]
    files = [Path(f"{path}.{host}") for host in range(hosts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    remove = ["sh", "-c", 'cat; rm -f "$@"', "sh", *map(str, files)]
    with subprocess.Popen(remove, stdin=subprocess.PIPE, start_new_session=True):
        for file in files:
            file.unlink(missing_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.writelines(lines)
        yield


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
    secrets: as `path` of `secrets_files`. stop: the file by which the launch asks the ranks to stop.
    """
    forwarded_here = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
    kept = {name: value for name, value in forwarded_here.items() if not is_secret(name)} | variables

    def on(host: str, node: str) -> str:
        waits = [str(stop.absolute()), f"{cluster.grace_seconds:g}", str(max(slots.values()))]
        started = [sys.executable, "-m", "launch.host", *waits]
        command = [*started, *train_command(overrides, slots, address, cluster.port, node)]
        forwarded = [f"{name}={value}" for name, value in {**kept, HOST: host}.items()]
        own = shlex.quote(f"{secrets.absolute()}.{node}")
        return f". {own} && rm {own} && cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*forwarded, *command])}"

    if cluster.remote_shell is RemoteShell.pdsh:
        return ["pdsh", "-S", "-R", "ssh", "-f", "1024", "-w", ",".join(slots), on("%h", "%n")]
    # A shell gives what it starts in the background no standard input of its own accord.
    starts = [f"{shlex.join([*SSH, host, on(host, str(node))])} <&0 & pids+=($!)" for node, host in enumerate(slots)]
    return ["bash", "-c", "\n".join([f"hosts=({shlex.join(slots)}) pids=()", *starts, WAIT])]
