"""The collectives of this process, from torch's flight recorder: which one it waits in, and how many it has begun.

torch keeps a ring of the last collectives of every process group, NCCL's and gloo's, and marks those that are over
(pytorch.org/tutorials/unstable/flight_recorder_tutorial.html). It can be read from another thread while this one waits.
"""

import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

BACKENDS = ("_dump_fr_trace", "_dump_nccl_trace")  # of torch._C._distributed_c10d: gloo's and NCCL's, where built in


def collectives() -> dict[str, Any]:
    """What this process tells about its collectives, as JSON.

    begun: process group -> how many it has begun, of the groups with more than one rank. waiting: the oldest that is
    not over, in words, None where all are; groups: process group -> its ranks.
    """
    groups = _groups()
    entries = [entry for entry in _entries() if len(groups.get(entry["process_group"][0], ())) > 1]
    begun: dict[str, int] = {}
    for entry in entries:
        name = entry["process_group"][0]
        begun[name] = max(begun.get(name, 0), entry["collective_seq_id"])
    pending = [entry for entry in entries if not entry["retired"] and entry["state"] != "completed"]
    waiting = _words(pending[0], groups[pending[0]["process_group"][0]]) if pending else None
    return {"begun": begun, "waiting": waiting, "groups": {name: groups[name] for name in begun}}


def behind(told: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """The ranks that have begun fewer collectives of a group than another of its ranks: those the others wait for.

    told: `collectives` of each rank that could tell.
    """
    found = set()
    for of in told.values():
        for name, ranks in of["groups"].items():
            counts = {rank: told[rank]["begun"].get(name, 0) for rank in ranks if rank in told}
            found |= {rank for rank, count in counts.items() if count < max(counts.values())}
    return found


def _entries() -> list[dict[str, Any]]:
    """The ring of every backend, oldest first; empty with a torch that has none."""
    found: list[dict[str, Any]] = []
    for name in BACKENDS:
        dump = getattr(distributed_c10d.torch._C._distributed_c10d, name, None)  # type: ignore[attr-defined]
        if dump is not None:
            found += pickle.loads(dump(True, False, False)).get("entries", [])
    return sorted(found, key=lambda entry: int(entry["time_created_ns"]))


def _groups() -> dict[str, list[int]]:
    """Process group's name -> its ranks in the world."""
    if not dist.is_initialized():
        return {}
    world = distributed_c10d._world
    # A group of other ranks stands there as a number, without a name.
    return {world.pg_names[group]: sorted(of) for group, of in world.pg_group_ranks.items() if group in world.pg_names}


def _words(entry: Mapping[str, Any], ranks: Sequence[int]) -> str:
    """`all_reduce 57 of 4,096 elements with ranks 0-3`."""
    name = entry["profiling_name"].partition(":")[2] or entry["profiling_name"]
    number = entry["p2p_seq_id"] if entry["is_p2p"] else entry["collective_seq_id"]
    shapes = entry["input_sizes"] or entry["output_sizes"]
    elements = sum(map(math.prod, shapes))
    return f"{name} {number} of {elements:,} elements with {_span(ranks)}"


def _span(ranks: Sequence[int]) -> str:
    """`ranks 0-7`, `ranks 0, 2, 4`; long lists without a step of one are cut off."""
    if list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return "ranks " + ", ".join(map(str, ranks[:8])) + more
