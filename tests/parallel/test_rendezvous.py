"""Processes that come are joined; those that do not are named."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from parallel.ports import PORTS, find_store, open_meeting_place
from tests.ports import free_port

MINUTE = timedelta(seconds=60)
ROOT = Path(__file__).parents[2]
CODE = """
import sys
from conf.errors import NodeError
from parallel.rendezvous import join, leave
print("imported", flush=True)
sys.stdin.readline()
try:
    print(join(float(sys.argv[1]), report={"rank": int(sys.argv[2])}, validate=len), flush=True)
    leave()
except NodeError as error:
    print(error, flush=True)
"""


def start(ranks: Sequence[int], size: int, port: int, seconds: float, **more: str) -> list[subprocess.Popen[str]]:
    """Processes that join within the same moment, however long each took to import what it needs."""
    processes = [_start(rank, size, port, seconds, more) for rank in ranks]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "imported\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return processes


def _start(rank: int, size: int, port: int, seconds: float, more: dict[str, str]) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", CODE, str(seconds), str(rank)]
    variables = {**os.environ, **place, **address, **more}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdin=pipe, stdout=pipe, text=True)


def test_missing_ranks_are_named_with_their_node() -> None:
    port = free_port(PORTS)
    came = start((0, 1), 4, port, 2, NODES="n1 n2")
    said = [process.communicate(timeout=120)[0].strip() for process in came]
    assert said == ["ranks 2, 3 (n2) did not come within 2 s"] * 2


def test_a_main_process_that_does_not_answer_is_named() -> None:
    port = free_port(PORTS)
    said = start([1], 2, port, 2, SLURMD_NODENAME="n2")[0].communicate(timeout=120)[0]
    assert f"rank 1 on n2 does not reach the main process at 127.0.0.1, ports {port} to {port + 15}, within 2 s" in said


def test_a_main_process_that_ends_while_others_wait_is_one_line() -> None:
    port = free_port(PORTS)
    with open_meeting_place(port, "mine") as place:
        number, handle = place.store.getsockname()[1], place.store.detach()
        store = TCPStore("127.0.0.1", number, 2, True, MINUTE, wait_for_workers=False, master_listen_fd=handle)
        (waiting,) = start([1], 2, port, 60, SLURMD_NODENAME="n2", RUN_LOCK_OWNER="mine")
        store.wait(["report/1"])
    del store
    assert waiting.communicate(timeout=120)[0] == "rank 1 on n2: the main process ended before everyone had come\n"


def test_the_main_process_does_not_end_before_the_others_know_how_it_went() -> None:
    """The store ends with it: one that asks later would say that the main process is to blame."""
    port = free_port(PORTS)
    (main,) = start([0], 3, port, 5, RUN_LOCK_OWNER="mine")
    assert main.stdout is not None
    number = find_store("127.0.0.1", port, "mine", 120)
    assert number is not None
    store = TCPStore("127.0.0.1", number, 3, False, MINUTE, wait_for_workers=False)
    store.set("report/1", "null")
    store.wait(["result"])
    assert select.select([main.stdout], [], [], 3) == ([], [], []), main.communicate()
    store.set("ack/1", "")
    assert main.communicate(timeout=120)[0] == "rank 2 did not come within 5 s\n"


def test_everyone_gets_what_the_main_process_makes_of_all() -> None:
    port = free_port(PORTS)
    came = start((0, 1), 2, port, 60)
    assert [process.communicate(timeout=120)[0].split("\n")[0] for process in came] == ["2", "2"]


def test_a_taken_port_is_named_and_another_one_used() -> None:
    """torch's store waits without end for a program that has its port and does not answer."""
    port = free_port(PORTS)
    with socket.create_server(("", port)):
        came = start((0, 1), 2, port, 60)
        said = [process.communicate(timeout=120)[0].splitlines() for process in came]
    assert said[1] == ["2"] and said[0][1] == "2"
    assert "other programs have the ports [" in said[0][0] and str(port) in said[0][0]
