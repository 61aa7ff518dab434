"""Hosts of a hostfile: what is read, what is refused, and a run over two of them through a real sshd."""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from conf.checksums import damage
from conf.compose import compose_settings
from conf.errors import HOST, ConfigError
from conf.schema import ClusterConfig
from launch.hostfile import read_hostfile, remote_command, secrets_files
from tests.canary import CANARIES, places
from tests.ports import free_port
from tests.train.test_loop import OTHER_STAGES, ROOT, command, weights, write_corpora


def cluster_of(path: Path) -> ClusterConfig:
    return compose_settings(["cluster=hostfile", f"cluster.hostfile={path}"]).cluster


def test_hosts_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# ours\nn2 slots=8\n\nn1   slots=4 # half\n")
    assert list(read_hostfile(cluster_of(tmp_path / "hosts")).items()) == [("n2", 8), ("n1", 4)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host; write lines such as 'node1 slots=8'"),
        ("n1\n", "hosts:1: 'n1' is not a line such as 'node1 slots=8'"),
        ("n1 slots=8\nn2 slots=0\n", "hosts:2: 'n2 slots=0' is not"),
        ("n1 slots=8\nn1 slots=8\n", "hosts:2: host n1 stands there twice"),
        (None, "is not a file"),
    ],
)
def test_a_wrong_file_is_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "hosts").write_text(text)
    with pytest.raises(ConfigError, match="hosts") as caught:
        read_hostfile(cluster_of(tmp_path / "hosts"))
    assert said in str(caught.value)


@pytest.mark.parametrize("shell", ["ssh", "pdsh"])
def test_no_secret_is_on_a_command_line(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line is seen by every user of every host; the file is this user's, and goes when the run ends."""
    canary = "canary-0123456789"
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, canary)
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    cluster = compose_settings(["cluster=hostfile", f"cluster.remote_shell={shell}"]).cluster
    file = tmp_path / ".run.secrets"
    words = " ".join(remote_command(cluster, {"n1": 1}, "10.0.0.1", ["model=tiny"], {}, file, tmp_path / "stop"))
    assert canary not in words and "NCCL_DEBUG=WARN" in words and str(file) in words
    with secrets_files(file, 2):
        assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600] * 2
        shown = subprocess.run(["sh", "-c", f". {file}.1; env"], capture_output=True, text=True, check=True, env={})
        assert f"HF_TOKEN={canary}" in shown.stdout and f"WANDB_API_KEY={canary}" in shown.stdout
        Path(f"{file}.1").unlink()  # as the host does once it has read it
    assert not list(tmp_path.iterdir())


def test_no_secrets_stay_where_the_launcher_is_killed_before_a_host_has_read_them(tmp_path: Path) -> None:
    killed = f"""if True:
        import os, pathlib, signal
        from launch.hostfile import secrets_files
        with secrets_files(pathlib.Path("{tmp_path}/.run.secrets"), 2):
            assert len(os.listdir("{tmp_path}")) == 2
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", killed], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 240
    while list(tmp_path.iterdir()):
        assert time.monotonic() < until, f"left behind: {list(tmp_path.iterdir())}"
        time.sleep(0.1)


MISSING = [program for program in ("ssh", "ssh-keygen") if shutil.which(program) is None]
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
needs_sshd = pytest.mark.skipif(
    bool(MISSING) or SSHD is None, reason="no ssh and sshd on this machine (Debian: openssh-client openssh-server)"
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `ssh` that reaches the hosts a, b and c, all this machine, and with a hostfile of the three."""
    folder = tmp_path_factory.mktemp("hosts")
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    port, until = free_port(), time.monotonic() + 240
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd separates privileges there
    options = [f"HostKey={folder}/host_key", f"AuthorizedKeysFile={folder}/authorized_keys", f"Port={port}"]
    options += ["ListenAddress=127.0.0.1", "StrictModes=no", "UsePAM=no", "PidFile=none"]
    assert SSHD is not None
    words = [SSHD, "-D", "-e", "-f", "/dev/null", *(word for option in options for word in ("-o", option))]
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen(words, stderr=log)
    (folder / "config").write_text(
        f"Host a b c\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/key\n"
        " StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n"
    )
    (folder / "bin").mkdir()
    (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (folder / "bin/ssh").chmod(0o755)
    (folder / "hosts").write_text("a slots=1\nb slots=1\nc slots=1\n")
    while not answers(port):
        assert time.monotonic() < until and server.poll() is None, (folder / "sshd.log").read_text()
        time.sleep(0.1)
    yield folder
    server.terminate()
    server.wait(10)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 60) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def launch(hosts: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PATH": f"{hosts}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


@needs_sshd
def test_a_host_that_does_not_answer_is_named_with_how_to_go_on_without(hosts: Path, tmp_path: Path) -> None:
    """In one line. Two hosts that take two sequences at once divide the batch of 24 as three do."""
    write_corpora(tmp_path)
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\nnowhere.invalid slots=1\nb2 slots=1\n")
    shell = [f"cluster.hostfile={tmp_path}/hosts", "cluster.remote_shell=ssh", "cluster.exclude=[b2]"]
    words = [*command(tmp_path, "silent", "cluster=hostfile", *shell), "layout.micro_batch_size=2"]
    done = launch(hosts, [*words, *(f"stages.{name}.global_batch_size=24" for name in ("nl", "multi", "mono"))])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no answer from nowhere.invalid (" in done.stderr and "ssh must work without a password" in done.stderr
    assert done.stderr.endswith("to resume with fewer, launch again with cluster.exclude=[b2,nowhere.invalid]\n")


@pytest.fixture(scope="module")
def alone(hosts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpora, and the run `local` of this machine alone, whose last report takes long."""
    folder = tmp_path_factory.mktemp("alone")
    write_corpora(folder)
    (folder / "sitecustomize.py").write_text(SLOW_REPORT)
    with start(hosts, short(folder, "local", "cluster.grace_seconds=5"), folder / "out", PYTHONPATH=str(folder)) as run:
        assert run.wait(300) == 0, (folder / "out").read_text()
    (folder / "sitecustomize.py").unlink()
    return folder


SLOW_REPORT = """
import os, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "matplotlib" and os.environ.get("RANK") == "0" and not os.path.exists(__file__ + ".met"):
            open(__file__ + ".met", "w").close()
            time.sleep(10)

sys.meta_path.insert(0, Slow())
"""


def short(folder: Path, name: str, *more: str) -> list[str]:
    """A launch that trains the first stage."""
    words = command(folder, name, "stage=nl", *more)
    return [word for word in words if not word.startswith(OTHER_STAGES)]


@needs_sshd
def test_a_last_report_that_takes_longer_than_ranks_are_given_is_waited_for(alone: Path) -> None:
    assert (alone / "sitecustomize.py.met").is_file() and (alone / "runs/local/stages.png").is_file()


@needs_sshd
@pytest.mark.parametrize("shell", ["ssh", "pdsh"])
def test_two_hosts_train_like_one_also_when_disturbed(hosts: Path, shell: str, alone: Path) -> None:
    """With ssh a host fails twice, and a spare one takes its place; with pdsh the run is cancelled as it starts."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    there = ["cluster=hostfile", f"cluster.hostfile={hosts}/hosts", f"cluster.remote_shell={shell}", "cluster.spares=1"]
    there += ["cluster.restarts=3", "cluster.restart_seconds=0", "cluster.grace_seconds=5"]
    run = alone / f"runs/both-{shell}"
    words = short(alone, run.name, *there)
    process = start(hosts, words, alone / shell)

    def rank_on_b() -> psutil.Process:
        until = time.monotonic() + 240
        while not (found := [rank for rank in ranks_of(run.name) if host_of(rank) == "b"]):
            assert time.monotonic() < until and process.poll() is None, (alone / shell).read_text()
            time.sleep(0.1)
        while not (run / "hangs/rank_1.alive").is_file():
            assert time.monotonic() < until and process.poll() is None, (alone / shell).read_text()
            time.sleep(0.1)
        time.sleep(1)  # its launcher looks at its ranks five times a second
        return found[0]

    if shell == "ssh":
        for _ in range(2):
            rank = rank_on_b()
            rank.kill()
            psutil.wait_procs([rank], 240)
    else:
        rank_on_b()
        assert launch(hosts, [*words[:3], "cancel", str(run)]).returncode == 0
        assert process.wait(300) == 75, (alone / shell).read_text()
        said = (alone / shell).read_text()
        found = re.search(rf"^saved; the same command resumes {run} after nl step (\d)$", said, re.MULTILINE)
        assert found and damage(run / f"stages/nl/checkpoints/step_0000000{found[1]}") is None, said
        process = start(hosts, words, alone / shell)
    assert process.wait(300) == 0, (alone / shell).read_text()
    said = (alone / shell).read_text()
    assert "all-reduce over every process" in said
    assert said.count("error: rank 1 (process ") == said.count(" on b) ended first") == (2 if shell == "ssh" else 0)
    assert ("b failed twice; c takes its place" in said) == (shell == "ssh")
    assert weights(run, "nl") == weights(alone / "runs/local", "nl")
    assert not list(alone.glob("runs/.*")), "no secrets are left"


@needs_sshd
@pytest.mark.parametrize(("shell", "ended_by"), [("ssh", [signal.SIGKILL]), ("pdsh", [signal.SIGTERM, signal.SIGTERM])])
def test_no_rank_on_any_host_outlives_the_launcher(
    hosts: Path, shell: str, ended_by: list[signal.Signals], tmp_path: Path
) -> None:
    """However it ends: killed, which nothing tells the hosts, or by a second signal, as ranks that do not stop need."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    write_corpora(tmp_path)
    there = ["cluster=hostfile", f"cluster.hostfile={hosts}/hosts", f"cluster.remote_shell={shell}"]
    there.append("cluster.exclude=[c]")
    run = tmp_path / f"runs/left-{shell}"
    endless = ["stages.nl.steps=100000", "run.save_every=100000"]
    launcher = start(hosts, short(tmp_path, run.name, *there, *endless), tmp_path / "out", **CANARIES)
    until = time.monotonic() + 300
    while not (run / "metrics.jsonl").is_file():
        assert time.monotonic() < until and launcher.poll() is None, (tmp_path / "out").read_text()
        time.sleep(0.5)
    ranks = [process for process in psutil.process_iter() if f"run.name={run.name}" in words_of(process)]
    assert not places(tmp_path)
    assert not list(tmp_path.glob("runs/.*")), "the secrets went as soon as every host had read them"
    assert any(rank.environ().get("HF_TOKEN") == CANARIES["HF_TOKEN"] for rank in ranks), "they have it all the same"
    assert len(ranks) >= 6  # two ranks, their launchers, and what starts these on each host
    if len(ended_by) == 2:
        for rank in ranks:
            if "RANK" in rank.environ() and "deepspeed.launcher.launch" not in words_of(rank):
                rank.suspend()
    for number in ended_by:
        launcher.send_signal(number)
        while number == signal.SIGTERM and "once more to kill it" not in (tmp_path / "out").read_text():
            assert time.monotonic() < until
            time.sleep(0.1)
    launcher.wait(240)
    _, left = psutil.wait_procs(ranks, 240)
    assert not left, (left, (tmp_path / "out").read_text())
    if ended_by == [signal.SIGKILL]:
        assert list(run.glob("stages/nl/checkpoints/step_*")), "asked to stop, the ranks saved"
    else:
        assert launcher.returncode == 128 + signal.SIGTERM
        said = (tmp_path / "out").read_text()
        assert f"ended before it had saved; the same command resumes {run} from the beginning" in said


def start(hosts: Path, words: list[str], out: Path, **more: str) -> subprocess.Popen[bytes]:
    """A launch that goes on; what it says is in the file `out`."""
    variables = {**os.environ, "PATH": f"{hosts}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **more}
    with out.open("wb") as file:
        return subprocess.Popen(words, cwd=ROOT, env=variables, stdout=file, stderr=file)


def ranks_of(name: str) -> list[psutil.Process]:
    """The ranks of a run, at this moment."""
    named = [process for process in psutil.process_iter() if f"run.name={name}" in words_of(process)]
    return [process for process in named if words_of(process)[1:4] == ["-u", "-m", "train"]]


def host_of(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error):
        return process.environ().get(HOST)
    return None


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []
