"""Whether processes that must hold the same values do: silent corruption of one replica, found and named.

Llama 3 (arXiv 2407.21783, section 3.3.4) and OLMo report hardware that changes values without an error. A parameter is
held more than once where data-parallel replicas keep whole weights (ZeRO-0, 1, 2) and where tensor ranks share a
LayerNorm or a bias; each copy is summed up as integers, exactly, and the sums are compared.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from conf.errors import node_name
from parallel.deepspeed_internals import is_partitioned
from parallel.engine import Engine
from parallel.tensor_parallel import shard_of

Copy = tuple[tuple[Any, ...], int]  # (which values, by the places that must agree on them; their checksum)
BITS = {2: torch.int16, 4: torch.int32}  # integers as wide as an element of so many bytes


def checksums(engine: Engine) -> list[Copy]:
    """The checksum of every parameter that this process holds, with what tells which others must have the same."""
    engine.wait_for_weights()
    mesh, keys, sums = engine.mesh, [], []
    for name, parameter in engine.deepspeed.module.named_parameters():
        cut = is_partitioned(parameter)  # a part for each replica
        values: Tensor = parameter.ds_tensor if cut else parameter
        tensor_rank = mesh.tp.rank if shard_of(parameter) is not None else None
        keys.append((name, tensor_rank, mesh.dp_rank if cut else None))
        checksum = values.detach().flatten().view(BITS[values.element_size()]).sum(dtype=torch.int64)
        sums.append(checksum.to(mesh.device))  # ZeRO-3 offloads the parameters that are trained, and not the others
    return list(zip(keys, torch.stack(sums).tolist() if sums else [], strict=True))


def compare_replicas(engine: Engine) -> str | None:
    """What differs, in one line with the ranks and nodes that are in the minority; None where all copies agree.

    Every process calls it and gets the same answer.
    """
    everyone = engine.mesh.all_gather_object((node_name(), checksums(engine)))
    return odd_ranks(everyone)


def odd_ranks(everyone: Sequence[tuple[str, Sequence[Copy]]]) -> str | None:
    """`compare_replicas` on (node, copies) of every rank. Where no value has a majority, every holder is named."""
    held: dict[tuple[Any, ...], dict[int, int]] = defaultdict(dict)
    for rank, (_, copies) in enumerate(everyone):
        for key, checksum in copies:
            held[key][rank] = checksum
    odd: dict[int, list[str]] = defaultdict(list)
    for (name, *_), copies_of in held.items():
        (usual, times), *others = Counter(copies_of.values()).most_common()
        if not others:
            continue
        tied = times == others[0][1]
        for rank, checksum in copies_of.items():
            if tied or checksum != usual:
                odd[rank].append(name)
    if not odd:
        return None
    ranks = ", ".join(f"rank {rank} on {everyone[rank][0]}" for rank in sorted(odd)[:8])
    more = f" and {len(odd) - 8} more" if len(odd) > 8 else ""
    names = list(dict.fromkeys(name for each in odd.values() for name in each))
    return f"{ranks}{more} does not hold what the other replicas hold of {names[0]}" + (
        f" and {len(names) - 1} other parameters" if len(names) > 1 else ""
    )
