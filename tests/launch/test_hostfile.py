"""Hosts of a hostfile: what is read, what is refused, and a run over two of them through a real sshd."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.schema import ClusterConfig
from launch.hostfile import read_hostfile, remote_command, secrets_file
from tests.canary import CANARIES, places
from tests.train.test_loop import ROOT, command, weights, write_corpora


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
    with secrets_file(file):
        assert file.stat().st_mode & 0o777 == 0o600
        shown = subprocess.run(["sh", "-c", f". {file}; env"], capture_output=True, text=True, check=True, env={})
        assert f"HF_TOKEN={canary}" in shown.stdout and f"WANDB_API_KEY={canary}" in shown.stdout
    assert not file.exists()


MISSING = [program for program in ("ssh", "ssh-keygen") if shutil.which(program) is None]
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
needs_sshd = pytest.mark.skipif(
    bool(MISSING) or SSHD is None, reason="no ssh and sshd on this machine (Debian: openssh-client openssh-server)"
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an `ssh` that reaches the hosts a and b, both this machine, and with a hostfile of the two."""
    folder = tmp_path_factory.mktemp("hosts")
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd separates privileges there
    options = [f"HostKey={folder}/host_key", f"AuthorizedKeysFile={folder}/authorized_keys", f"Port={port}"]
    options += ["ListenAddress=127.0.0.1", "StrictModes=no", "UsePAM=no", "PidFile=none"]
    assert SSHD is not None
    words = [SSHD, "-D", "-e", "-f", "/dev/null", *(word for option in options for word in ("-o", option))]
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen(words, stderr=log)
    (folder / "config").write_text(
        f"Host a b\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/key\n"
        " StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n"
    )
    (folder / "bin").mkdir()
    (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (folder / "bin/ssh").chmod(0o755)
    (folder / "hosts").write_text("a slots=1\nb slots=1\n")
    time.sleep(1)
    yield folder
    server.terminate()
    server.wait(10)


def launch(hosts: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PATH": f"{hosts}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)


@needs_sshd
def test_a_host_that_does_not_answer_is_named(hosts: Path, tmp_path: Path) -> None:
    write_corpora(tmp_path)
    (tmp_path / "hosts").write_text("a slots=1\nnowhere.invalid slots=1\n")
    shell = [f"cluster.hostfile={tmp_path}/hosts", "cluster.remote_shell=ssh"]
    done = launch(hosts, command(tmp_path, "silent", "cluster=hostfile", *shell))
    assert done.returncode == 2
    assert "no answer from nowhere.invalid (" in done.stderr and "ssh must work without a password" in done.stderr


@needs_sshd
@pytest.mark.parametrize("shell", ["ssh", "pdsh"])
def test_two_hosts_train_like_one(hosts: Path, shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    write_corpora(tmp_path)
    words = [word for word in command(tmp_path, "local") if not word.startswith(("stages.multi", "stages.mono"))]
    alone = launch(hosts, [*words, "stage=nl"])
    assert alone.returncode == 0, alone.stderr
    there = ["cluster=hostfile", f"cluster.hostfile={hosts}/hosts", f"cluster.remote_shell={shell}", "run.name=both"]
    done = launch(hosts, [*words, "stage=nl", *there])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all-reduce over every process" in done.stdout
    assert weights(tmp_path / "runs/both", "nl") == weights(tmp_path / "runs/local", "nl")


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
    words = command(tmp_path, f"left-{shell}", *there, "stage=nl", "stages.nl.steps=100000", "run.save_every=100000")
    words = [word for word in words if not word.startswith(("stages.multi", "stages.mono"))]
    run = tmp_path / f"runs/left-{shell}"
    variables = {**os.environ, **CANARIES, "PATH": f"{hosts}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "out").open("wb") as out:
        launcher = subprocess.Popen(words, cwd=ROOT, env=variables, stdout=out, stderr=out)
    until = time.monotonic() + 240
    while not (run / "metrics.jsonl").is_file():
        assert time.monotonic() < until and launcher.poll() is None, (tmp_path / "out").read_text()
        time.sleep(0.5)
    ranks = [process for process in psutil.process_iter() if f"run.name={run.name}" in words_of(process)]
    assert not places(tmp_path)
    assert any(rank.environ().get("HF_TOKEN") == CANARIES["HF_TOKEN"] for rank in ranks), "they have it all the same"
    assert len(ranks) >= 6  # two ranks, their launchers, and what starts these on each host
    if len(ended_by) == 2:
        for rank in ranks:
            if "RANK" in rank.environ() and "deepspeed.launcher.launch" not in words_of(rank):
                rank.suspend()
    for number in ended_by:
        launcher.send_signal(number)
        time.sleep(1)
    launcher.wait(60)
    _, left = psutil.wait_procs(ranks, 120)
    assert not left, (left, (tmp_path / "out").read_text())
    if ended_by == [signal.SIGKILL]:
        assert list(run.glob("stages/nl/checkpoints/step_*")), "asked to stop, the ranks saved"
    else:
        assert launcher.returncode == 128 + signal.SIGTERM


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []
