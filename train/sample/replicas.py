"""How the processes of a launch share the work of sampling: each holds a share of the model, or all of it and a share
of the prompts."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.flops import parameters
from parallel.mesh import ProcessMesh
from train.stop import StopSignal

Item = TypeVar("Item")
Result = TypeVar("Result")
WEIGHTS_SHARE = 0.6  # of a device's memory; the rest is for the KV caches of a batch


def tensor_parallel_size(model: ModelConfig, processes: int, asked: int | None, element_bytes: int) -> int:
    """How many of `processes` share each matrix: `asked`, or as few as hold the weights; the rest are replicas.

    element_bytes: of a weight. Errors: `ConfigError` where `asked` divides neither the processes nor the model.
    """
    sizes = [
        size
        for size in range(1, processes + 1)
        if not processes % size and not model.n_head % size and not model.vocab_size % size
    ]
    if asked is not None:
        if asked not in sizes:
            raise ConfigError(
                f"tensor_parallel_size={asked} does not divide {processes} processes, n_head={model.n_head} and "
                f"vocab_size={model.vocab_size}; use one of {sizes}"
            )
        return asked
    if not torch.cuda.is_available():
        return 1
    room = WEIGHTS_SHARE * torch.cuda.get_device_properties(0).total_memory
    return next((size for size in sizes if parameters(model) * element_bytes / size <= room), sizes[-1])


def spread(
    mesh: ProcessMesh,
    items: Sequence[Item],
    batch_size: int,
    work: Callable[[list[Item]], list[Result]],
    stop: StopSignal | None = None,
    in_lockstep: bool = False,
) -> Iterator[list[Result]]:
    """Results of `items`, in their order, round by round: each replica works on at most `batch_size` of a round.

    Every process calls it and gets every result. After a round in which `stop` was set on any process, all raise
    KeyboardInterrupt together: one that left alone would leave the others in a collective.
    in_lockstep: `work` has collectives over all replicas, so it is called without items too.
    """
    round_size = batch_size * mesh.dp_size
    for start in range(0, len(items), round_size):
        items_of_round = items[start : start + round_size]
        share = -(-len(items_of_round) // mesh.dp_size)
        own = list(items_of_round[mesh.dp_rank * share : (mesh.dp_rank + 1) * share])
        done = mesh.all_gather_object((work(own) if own or in_lockstep else [], stop is not None and stop.received))
        # Ranks of the first pipeline stage, and of these the first of each group of tensor ranks.
        yield [result for results, _ in done[: mesh.dp_size * mesh.tp.size : mesh.tp.size] for result in results]
        if any(stopped for _, stopped in done):
            raise KeyboardInterrupt
