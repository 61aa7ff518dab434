"""A real Slurm of two nodes on this machine: munged, slurmctld and two slurmd, all below one folder.

The machine may stand still for half a minute: no node is down by then (SlurmdTimeout), no message is lost
(MessageTimeout), no credential too old (cred_expire), no job taken for one that did not start (BatchStartTimeout), and
no rank killed while it saves (KillWait).
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=120,socket={folder}/munge/socket
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
MessageTimeout=100
BatchStartTimeout=300
KillWait=240
MinJobAge=30
SchedulerParameters=batch_sched_delay=0,sched_interval=3,sched_min_interval=0
EnforcePartLimits=ALL
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=n1,n2 AllowAccounts=physics State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here, None where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]
    if missing:
        return f"no {', '.join(missing)} on this machine (Debian: slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "slurmd must be started by root"


def search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass
class SlurmCluster:
    """Two nodes, n1 and n2. `variables` is the environment for every command."""

    folder: Path
    variables: dict[str, str] = field(init=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.variables = {**os.environ, "PATH": search_path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start everything and wait until both nodes are idle. Errors: RuntimeError with the controller's log."""
        munge = self.folder / "munge"
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(mode=0o755)
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", *options)
        first = free_port(3)
        text = CONFIG.format(host=socket.gethostname(), folder=self.folder, ports=range(first, first + 3))
        (self.folder / "slurm.conf").write_text(text)
        while not (munge / "socket").exists():
            time.sleep(0.1)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        until = time.monotonic() + 240
        while self.command("sinfo", "-h", "-p", "debug", "-t", "idle", "-o", "%D").strip() != "2":
            if time.monotonic() > until:
                log = (self.folder / "slurmctld.log").read_text()[-3000:]
                raise RuntimeError(f"Slurm does not come up: {log}")
            time.sleep(0.5)

    def start_node(self, node: str) -> None:
        self._start(f"slurmd-{node}", "-D", "-N", node)

    def stop_node(self, node: str) -> None:
        """End a node's slurmd, as a crash of the machine does: nothing is told to the controller."""
        process = self.processes.pop(f"slurmd-{node}")
        process.kill()
        process.wait()

    def command(self, *words: str) -> str:
        """The output of a Slurm command; empty where it fails."""
        return subprocess.run(words, env=self.variables, capture_output=True, text=True, check=False).stdout

    def state(self, job: str) -> str:
        """Slurm's word for the state of a job that ended a short while ago, or has not."""
        shown = self.command("scontrol", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0] if "JobState=" in shown else "UNKNOWN"

    def minutes(self, job: str) -> int:
        """How long a job has been running, rounded down."""
        while "RunTime=" not in (shown := self.command("scontrol", "show", "job", job)):
            time.sleep(0.5)  # the controller did not answer
        hours, minutes, _ = shown.partition("RunTime=")[2].split()[0].split(":")
        return 60 * int(hours) + int(minutes)

    def begins_now(self, job: str) -> bool:
        """Have a requeued job begin soon, not after the time that Slurm adds; false until it waits.

        In the second in which it was requeued, its node would refuse it: "Job credential revoked".
        """
        words = ["scontrol", "update", f"JobId={job}", "StartTime=now+2"]
        return self.state(job) == "PENDING" and subprocess.run(words, env=self.variables, check=False).returncode == 0

    def stop(self) -> None:
        self.command("scancel", "--signal=KILL", "--full", "--user=root")
        self.command("scancel", "--user=root")
        time.sleep(2)
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *words: str) -> None:
        log = (self.folder / f"{name}.out").open("wb")
        program = shutil.which(name.partition("-")[0], path=search_path())
        assert program is not None
        self.processes[name] = subprocess.Popen([program, *words], env=self.variables, stdout=log, stderr=log)
