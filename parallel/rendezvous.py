"""How processes find each other: over a plain TCP store first, so that a node that is missing or unfit gets its name.

Nothing here touches a device before `join` has everyone: a GPU that hangs cannot hide behind a collective.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import deepspeed  # type: ignore[import-untyped]
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator  # type: ignore[import-untyped]
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from conf.errors import MissingError, NodeError, UnreachableError, node_name
from conf.plural import plural
from conf.run_lock import OWNER
from parallel.mesh import local_device
from parallel.ports import PORTS, find_store, open_meeting_place

POLL_SECONDS = 0.05
STEP = timedelta(seconds=120)  # for what is only waiting for a process that is known to be there


def join(
    join_seconds: float = 300.0,
    collective_seconds: float = 1800.0,
    report: Any = None,
    validate: Callable[[Sequence[Any]], Any] = list,
) -> Any:
    """Join the processes that the launcher started; a process started alone is a world of one.

    join_seconds: how long processes wait for each other. collective_seconds: how long a collective waits for a process
    that does not come. report: what this process tells of itself, as JSON; `validate` sees every process's on the main
    one, by rank, and what it makes of them comes back on all, before any device is used. Joining twice does nothing.
    Errors: `MissingError` naming who is missing.
    """
    if dist.is_initialized():
        return validate([report])
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with ExitStack() as meeting:
        store = _open_store(rank, size, join_seconds, meeting)
        result = _exchange_reports(store, rank, size, join_seconds, report, validate)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # A shared-memory all-reduce for inference on CPUs, never called here: compiling it costs a minute on a new machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend, timeout = get_accelerator().communication_backend_name(), timedelta(seconds=collective_seconds)
    device = local_device(int(os.environ["LOCAL_RANK"]))
    bound = device if device.type == "cuda" else None  # NCCL connects now, where an error is easy to place
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=bound)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    return result


def leave() -> None:
    """Leave the process group, where one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _open_store(rank: int, size: int, seconds: float, meeting: ExitStack) -> Store:
    """The store of this run; the main process can be found until `meeting` is closed."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    run = os.environ.get(OWNER) or f"job-{os.environ.get('SLURM_JOB_ID', '')}"
    limit = timedelta(seconds=seconds)
    if size == 1:
        return TCPStore("127.0.0.1", 0, size, True, limit, wait_for_workers=False)
    if rank == 0:
        place = meeting.enter_context(open_meeting_place(port, run))
        if place.taken:
            print(f"warning: {node_name()}: other programs have the ports {place.taken}; others are used", flush=True)
        number, handle = place.store.getsockname()[1], place.store.detach()
        return TCPStore("127.0.0.1", number, size, True, limit, wait_for_workers=False, master_listen_fd=handle)
    found = find_store(address, port, run, seconds)
    try:
        if found is not None:
            return TCPStore(address, found, size, False, limit, wait_for_workers=False)
        said = "nobody answers for this run"
    except (dist.DistNetworkError, RuntimeError) as error:
        said = str(error).splitlines()[0][:120]
    raise UnreachableError(
        f"rank {rank} on {node_name()} does not reach the main process at {address}, ports {port} to "
        f"{port + PORTS - 1}, within {seconds:g} s; is that node up, and are the ports open? ({said})"
    ) from None


def _exchange_reports(
    store: Store, rank: int, size: int, seconds: float, report: Any, validate: Callable[[Sequence[Any]], Any]
) -> Any:
    store.set(f"report/{rank}", json.dumps(report))
    if rank == 0:
        missing = _wait_for(store, "report", list(range(size)), seconds)
        if missing:
            result = {"missing": missing}
        else:
            result = {"result": validate([json.loads(store.get(f"report/{other}")) for other in range(size)])}
        store.set("result", json.dumps(result))
        # The store ends with this process: nobody may still be asking it.
        _wait_for(store, "ack", [other for other in range(1, size) if other not in missing], STEP.total_seconds())
    else:
        try:
            store.wait(["result"], timedelta(seconds=seconds) + STEP)
            result = json.loads(store.get("result"))
            store.set(f"ack/{rank}", "")
        except dist.DistError:
            raise NodeError(f"rank {rank} on {node_name()}: the main process ended before everyone had come") from None
    if "missing" in result:
        came = [other for other in range(size) if other not in result["missing"]]
        raise MissingError(f"{_named(result['missing'], size)} did not come within {seconds:g} s", came)
    return result["result"]


def _wait_for(store: Store, key: str, ranks: list[int], seconds: float) -> list[int]:
    """Those of `ranks` that have not set `key` when time is up."""
    until, missing = time.monotonic() + seconds, ranks
    while missing and time.monotonic() < until:
        missing = [rank for rank in missing if not store.check([f"{key}/{rank}"])]
        if missing:
            time.sleep(POLL_SECONDS)
    return missing


def _named(ranks: list[int], size: int) -> str:
    """`ranks 2, 3 (n2)`: with the nodes, where the launcher left their names in NODES."""
    nodes = os.environ.get("NODES", "").split()
    ranks_per_node = size // len(nodes) if nodes else 0
    names = sorted({nodes[rank // ranks_per_node] for rank in ranks}) if ranks_per_node else []
    listed = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"{plural('rank', len(ranks))} {listed}" + (f" ({', '.join(names)})" if names else "")
