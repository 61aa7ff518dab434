"""Which port the processes meet on: the first ones of a range that no other program has.

The main process listens on the first free port of the range and tells whoever names the same run where the store is.
A program that has the wanted port instead may never answer, and torch's TCPStore waits for it without end; here every
port has a moment to answer, and the next one is asked.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from conf.errors import NodeError, node_name

PORTS = 16  # from the wanted one on: one to ask at, one for the store, and those that other programs may have
ANSWER_SECONDS = 2.0  # for a connection, and for an answer on it
PAUSE_SECONDS = 0.2  # between two rounds over all ports
LONGEST = 256  # bytes of a question or an answer


@dataclass(frozen=True)
class MeetingPlace:
    """Where the main process is met. store: a listening socket, for the store. taken: wanted ports that others have."""

    store: socket.socket
    taken: list[int]


@contextlib.contextmanager
def open_meeting_place(port: int, run: str) -> Iterator[MeetingPlace]:
    """Listen on two free ports from `port` on, and answer who asks for `run` until the block ends.

    The caller closes the store's socket. Errors: `NodeError` where fewer than two of `PORTS` are free.
    """
    free: list[socket.socket] = []
    taken: list[int] = []
    for number in range(port, port + PORTS):
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            free.append(socket.create_server(("", number), family=family, backlog=4096, dualstack_ipv6=both))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            taken.append(number)
        if len(free) == 2:
            break
    else:
        for listening in free:
            listening.close()
        raise NodeError(
            f"{node_name()}: of the ports {port} to {port + PORTS - 1} other programs have {len(taken)}; "
            "choose another first one with cluster.port=..."
        )
    asked, store = free
    answer = f"{run} {store.getsockname()[1]}\n".encode()
    threading.Thread(target=_answer, args=(asked, run.encode(), answer), name="ports", daemon=True).start()
    try:
        yield MeetingPlace(store, taken)
    finally:
        with contextlib.suppress(OSError):
            asked.shutdown(socket.SHUT_RDWR)  # wakes the thread
        asked.close()


def find_store(address: str, port: int, run: str, seconds: float) -> int | None:
    """The port of the store of `run` on the host at `address`; None where nobody there tells within `seconds`."""
    until = time.monotonic() + seconds
    while True:
        for number in range(port, port + PORTS):
            found = _ask(address, number, run)
            if found is not None:
                return found
            if time.monotonic() > until:
                return None
        time.sleep(PAUSE_SECONDS)


def _ask(address: str, port: int, run: str) -> int | None:
    with contextlib.suppress(OSError, ValueError), socket.create_connection((address, port), ANSWER_SECONDS) as asking:
        asking.sendall(f"{run}\n".encode())
        owner, _, store = asking.makefile("rb").readline(LONGEST).decode(errors="replace").strip().rpartition(" ")
        if owner == run:
            return int(store)
    return None


def _answer(listening: socket.socket, run: bytes, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # closed
            return
        with contextlib.suppress(OSError), connection:
            connection.settimeout(ANSWER_SECONDS)
            if connection.makefile("rb").readline(LONGEST).strip() == run:
                connection.sendall(answer)
