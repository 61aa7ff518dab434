"""Ports for servers that a test starts."""

import contextlib
import random
import socket


def free_port(count: int = 1) -> int:
    """The first of `count` free ports below those that systems give away, so that no other test's program is there."""
    for port in random.SystemRandom().sample(range(20000, 32000, count), 200):
        with contextlib.suppress(OSError), contextlib.ExitStack() as all_of_them:
            for number in range(port, port + count):
                all_of_them.enter_context(socket.create_server(("", number)))
            return port
    raise AssertionError("no free ports")
