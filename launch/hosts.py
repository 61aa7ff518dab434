"""Which hosts of a hostfile train: one that does not answer or failed twice gives its place to a spare one."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from conf.command_line import print_error
from conf.errors import ConfigError
from conf.exit_codes import BAD_NODE
from conf.run_lock import OWNER, stop_file
from conf.schema import Settings
from launch.blame import blamed_node
from launch.host import failed_file
from launch.hostfile import ask_addresses, hosts_of, remote_command, secrets_files
from launch.processes import ENDED, run

FAILURES = 2  # of one host, after which it is replaced


class Hosts:
    """The hosts of one launch of the run in `folder`. used, spares: host -> its processes, as the ranks are ordered."""

    def __init__(self, folder: Path, overrides: list[str], settings: Settings) -> None:
        self.folder, self.overrides, self.cluster = folder, overrides, settings.cluster
        self.used, self.spares = hosts_of(settings.cluster)
        self.replaced: list[str] = []
        self.failures: Counter[str] = Counter()
        self.address: str | None = None  # of the first host, where the processes meet

    def meet(self) -> None:
        """Ask every host for its address; spare ones take the places of those that do not answer.

        Errors: `ConfigError` naming every host that does not answer and how to resume without, or the remote shell that
        is missing.
        """
        for program in {"ssh", self.cluster.remote_shell.value}:
            if shutil.which(program) is None:
                raise ConfigError(f"there is no {program} on this machine; install it or set cluster.remote_shell=ssh")
        addresses, silent = ask_addresses([*self.used, *self.spares])
        for host, said in list(silent.items()):
            if host in self.used and self.replace(host, f"does not answer ({said})", silent):
                del silent[host]
        missing = [host for host in self.used if host in silent]
        if missing:
            named = ", ".join(f"{host} ({silent[host]})" for host in missing)
            raise ConfigError(f"no answer from {named}; ssh must work without a password{self.offer(missing)}")
        self.address = addresses[next(iter(self.used))]

    def replace(self, host: str, why: str, unfit: Collection[str] = ()) -> bool:
        """Put a spare host, none of `unfit`, in the place of `host`, and say why; false where there is none."""
        fits = (name for name, slots in self.spares.items() if slots >= self.used[host] and name not in unfit)
        spare = next(fits, None)
        if spare is None:
            return False
        del self.spares[spare]
        self.replaced.append(host)
        self.used = {spare if name == host else name: slots for name, slots in self.used.items()}
        print(f"{host} {why}; {spare} takes its place", file=sys.stderr, flush=True)
        return True

    def offer(self, missing: Collection[str]) -> str:
        """How the run resumes with fewer hosts, as a clause; empty where it cannot."""
        if len(missing) >= len(self.used):
            return ""
        others = [*self.cluster.exclude, *self.replaced, *self.spares]
        words = [sys.executable, "-m", "train.plan.fewer", ",".join(missing), *self.overrides]
        words.append(f"cluster.exclude=[{','.join(others)}]")
        variables = {**os.environ, "NODES": nodes_of(self.used)}
        told = subprocess.run(words, env=variables, capture_output=True, text=True, check=False).stdout.strip()
        return f"; to resume with fewer, launch again with {told}" if told else ""

    def command(self, variables: dict[str, str], address: str) -> list[str]:
        """The command that trains on the hosts in use."""
        forwarded = {**variables, "NODES": nodes_of(self.used)}
        stop = stop_file(self.folder, variables[OWNER])
        return remote_command(self.cluster, self.used, address, self.overrides, forwarded, self.secrets, stop)

    @property
    def secrets(self) -> Path:
        """Begins the names of the files that the hosts read the secret environment variables from."""
        return self.folder.with_name(f".{self.folder.name}.secrets")

    def train(self, variables: dict[str, str], log: Path, stop: Callable[[psutil.Process], None]) -> int:
        """Train until a process ends, as `run`; the host to blame for a failure is replaced after its second."""
        begin = log.stat().st_size if log.exists() else 0
        try:
            if self.address is None:
                self.meet()
            assert self.address is not None
            command = self.command(variables, self.address)
            failed_file(stop_file(self.folder, variables[OWNER])).unlink(missing_ok=True)
            with secrets_files(self.secrets, len(self.used)):
                code = run(command, {**os.environ, **variables}, self.cluster.grace_seconds, log, stop)
        except ConfigError as error:  # a host that answered as the launch began does no more
            print_error(str(error))
            code = BAD_NODE
        self.address = None  # the next try asks again
        if code not in ENDED and log.exists():
            with log.open("rb") as file:
                file.seek(begin)
                self._blame(blamed_node(file.read().decode(errors="replace").splitlines(), list(self.used)))
        return code

    def _blame(self, host: str | None) -> None:
        if host is None:
            return
        self.failures[host] += 1
        if self.failures[host] < FAILURES or self.replace(host, "failed twice"):
            return
        print(f"{host} failed twice, and no host is spare{self.offer([host])}", file=sys.stderr, flush=True)


def nodes_of(slots: dict[str, int]) -> str:
    """The host of every rank, by rank, as the processes read it."""
    return " ".join(host for host, count in slots.items() for _ in range(count))
