"""A host that does not answer or failed twice gives its place to a spare; who is to blame is read in what was said."""

from pathlib import Path
from typing import Any

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.run_lock import OWNER
from launch.hosts import Hosts, nodes_of

LINES = ["n1 slots=2", "n2 slots=2", "n3 slots=2", "small slots=1", "n4 slots=2"]


def hosts_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *silent: str, spares: int = 2) -> Hosts:
    """Hosts of which `silent` do not answer."""
    (folder / "hosts").write_text("\n".join(LINES))
    words = ["cluster=hostfile", f"cluster.hostfile={folder}/hosts", f"cluster.spares={spares}", "stage=nl"]
    words += ["model=tiny", "cluster.remote_shell=ssh", "layout.micro_batch_size=4", "stages.nl.global_batch_size=24"]

    def ask(hosts: list[str]) -> tuple[dict[str, str], dict[str, str]]:
        return {host: f"ip-{host}" for host in hosts if host not in silent}, dict.fromkeys(silent, "no route")

    monkeypatch.setattr("launch.hosts.ask_addresses", ask)
    monkeypatch.setattr("launch.hosts.shutil.which", lambda program: program)
    return Hosts(folder / "run", words, compose_settings(words))


def failing(hosts: Hosts, monkeypatch: pytest.MonkeyPatch, log: Path, line: str, code: int = 1) -> list[str]:
    """The command of a try that ends with `code` once it has said `line`."""
    seen: list[list[str]] = []

    def run(command: list[str], variables: Any, grace: float, path: Path, stop: Any) -> int:
        seen.append(command)
        with path.open("a") as file:
            file.write(f"error: rank 0 on n1 lost another rank: RuntimeError: closed\n{line}\n")
        return code

    monkeypatch.setattr("launch.hosts.run", run)
    assert hosts.train({OWNER: "me"}, log, lambda _: None) == code
    return seen[0]


def test_a_host_that_does_not_answer_is_replaced_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = hosts_of(tmp_path, monkeypatch, "n1")
    hosts.meet()
    assert list(hosts.used) == ["n4", "n2", "n3"] and hosts.address == "ip-n4", "the small one has too few slots"
    assert nodes_of(hosts.used) == "n4 n4 n2 n2 n3 n3"
    assert capsys.readouterr().err == "n1 does not answer (no route); n4 takes its place\n"


def test_without_a_spare_the_line_says_how_to_go_on_with_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = hosts_of(tmp_path, monkeypatch, "n2", "n4")
    with pytest.raises(ConfigError) as caught:
        hosts.meet()
    assert str(caught.value) == (
        "no answer from n2 (no route); ssh must work without a password; to resume with fewer, launch again with "
        "cluster.exclude=[small,n4,n2] cluster.spares=0 layout.micro_batch_size=2"
    )


def test_a_host_that_failed_twice_is_replaced_and_without_a_spare_the_line_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts, log = hosts_of(tmp_path, monkeypatch), tmp_path / "log"
    monkeypatch.setattr(hosts, "offer", lambda missing: f"; fewer than {missing}")
    log.write_text("error: rank 4 on n3: of an earlier launch\n")
    failing(hosts, monkeypatch, log, "error: rank 2 on n2: OSError: a GPU fell off the bus")
    failing(hosts, monkeypatch, log, "srun: what blames nobody")
    failing(hosts, monkeypatch, log, "error: ranks 2, 3 (n2) did not come within 300 s", 3)
    assert capsys.readouterr().err == "n2 failed twice; n4 takes its place\n"
    assert "n4" in " ".join(failing(hosts, monkeypatch, log, "error: n4: the connection to it ended", 255))
    failing(hosts, monkeypatch, log, "error: n4: its disk is full", 75)  # it was asked to stop, and saved
    assert capsys.readouterr().err == "" and list(hosts.used) == ["n1", "n4", "n3"]
    failing(hosts, monkeypatch, log, "error: rank 3 (process 4711 on n4) ended first; the others were stopped")
    assert capsys.readouterr().err == "n4 failed twice, and no host is spare; fewer than ['n4']\n"


def test_a_host_that_stops_answering_between_two_tries_is_a_failed_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = hosts_of(tmp_path, monkeypatch, "n1", "n4")
    monkeypatch.setattr(hosts, "offer", lambda missing: "")
    assert hosts.train({OWNER: "me"}, tmp_path / "log", lambda _: None) == 3
    assert capsys.readouterr().err == "error: no answer from n1 (no route); ssh must work without a password\n"
