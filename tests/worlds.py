"""Worlds of real processes on gloo, one per size for the whole session: starting them costs seconds.

`worlds(4).run(case, *arguments)` runs `case(*arguments)` on four processes that have joined one process group, and
returns their results by rank. A case is a function of an importable module; what it raises is raised here.
Between cases the processes are stopped: gloo's threads poll, and those of fifteen idle ones eat a core.
"""

import functools
import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.ports import free_port

PATIENCE_SECONDS = 240.0


class CaseError(AssertionError):
    """A case failed on a process; the text is that process's traceback."""


@functools.cache
def mesh_of(*layout: Any) -> Any:
    """`build_mesh(*layout)`, once a process: process groups are never given back."""
    from parallel.mesh import build_mesh

    return build_mesh(*layout)


def _serve(connection: Connection, rank: int, size: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    import torch

    from parallel.rendezvous import join

    torch.set_num_threads(1)
    join(collective_seconds=120.0)
    while True:
        try:
            module, name, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            torch.manual_seed(0)
            connection.send((True, getattr(importlib.import_module(module), name)(*arguments)))
        except BaseException:
            connection.send((False, traceback.format_exc()))


class Workers:
    """`size` processes in one process group, waiting for cases."""

    def __init__(self, size: int) -> None:
        self.size = size
        port = free_port()
        # Forked from a process that has imported what costs seconds (torch.optim loads dynamo) and started nothing.
        # CUDA does not survive a fork.
        context = multiprocessing.get_context("forkserver" if os.environ.get("DS_ACCELERATOR") == "cpu" else "spawn")
        multiprocessing.set_forkserver_preload(["deepspeed", "torch._dynamo", "parallel.engine", "model.build"])
        pipes = [context.Pipe() for _ in range(size)]
        self.connections = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=_serve, args=(theirs, rank, size, port), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def run(self, case: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results of `case(*arguments)` by rank. Errors: `CaseError` with the traceback of the first that failed."""
        self._signal(signal.SIGCONT)
        for connection in self.connections:
            connection.send((case.__module__, case.__name__, arguments))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(results) < self.size:
            waiting = [c for rank, c in enumerate(self.connections) if rank not in results]
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                missing = [rank for rank in range(self.size) if rank not in results]
                raise CaseError(f"ranks {missing} of {self.size} did not answer in {PATIENCE_SECONDS} s")
            for connection in ready:
                rank = self.connections.index(connection)
                well, results[rank] = connection.recv()
                if not well:
                    self.close()  # the others may wait for this rank for ever
                    raise CaseError(f"rank {rank} of {self.size}:\n{results[rank]}")
        self._signal(signal.SIGSTOP)
        return [results[rank] for rank in range(self.size)]

    def _signal(self, number: int) -> None:
        for process in self.processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    @property
    def alive(self) -> bool:
        """Whether every process still runs."""
        return all(process.is_alive() for process in self.processes)

    def close(self) -> None:
        """End the processes that this object started."""
        self._signal(signal.SIGCONT)
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()


class Worlds:
    """Makes a world of each size when it is first asked for, and keeps it."""

    def __init__(self) -> None:
        self.by_size: dict[int, Workers] = {}

    def __call__(self, size: int) -> Workers:
        """The world of `size` processes."""
        if size not in self.by_size or not self.by_size[size].alive:
            self.by_size[size] = Workers(size)
        return self.by_size[size]

    def close(self) -> None:
        """End them all."""
        for workers in self.by_size.values():
            workers.close()
