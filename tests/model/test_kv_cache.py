"""With a cache a block computes what it computes without one, for rows of any length, in steps of any length."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conf.choices import Recompute
from conf.schema import ModelConfig
from model.codegen import Block
from model.init import init_layer
from model.kernels import REFERENCE, Kernels
from model.kernels.attention import sdpa_attention
from model.kv_cache import DecodePositions, KVCache
from parallel.mesh import TensorParallelGroup

MODEL = ModelConfig("case", 2, 32, 4, 4, 64, 16, 1e-5, 0.0)
LENGTHS = (7, 3, 10)


def block_of(kernels: Kernels) -> Block:
    block = Block(MODEL, TensorParallelGroup(), kernels, Recompute.none, 1)
    init_layer(block, 1, MODEL, TensorParallelGroup(), seed=3)
    return block


@pytest.mark.parametrize("kernels", [REFERENCE, replace(REFERENCE, attention=sdpa_attention)])
@pytest.mark.parametrize("step", [1, 2, 3])
@torch.inference_mode()
def test_steps_after_unequal_prompts_are_the_whole_pass(kernels: Kernels, step: int) -> None:
    """Each row's first LENGTHS[row] tokens are its prompt, padded on the right with what must not be seen."""
    block, x = block_of(kernels), torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
    whole = block(x)
    kv_cache, longest = KVCache((3, 4, 16, 8), torch.float32, torch.device("cpu")), max(LENGTHS)
    prompts = x[:, :longest].clone()
    for row, length in enumerate(LENGTHS):
        prompts[row, length:] = 1e3
    read = block(prompts, kv_cache, DecodePositions(torch.arange(longest).unsqueeze(0), longest))
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(read[row, :length], whole[row, :length], rtol=1e-5, atol=1e-5)
    starts = torch.tensor(LENGTHS).unsqueeze(1)
    for _ in range(6 // step):
        positions = starts + torch.arange(step)
        made = block(rows_at(x, positions), kv_cache, DecodePositions(positions, int(positions.max()) + 1))
        torch.testing.assert_close(made, rows_at(whole, positions), rtol=1e-5, atol=1e-5)
        starts = starts + step


@torch.inference_mode()
def test_chosen_rows_go_on_alone_and_several_times() -> None:
    block, x = block_of(REFERENCE), torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
    whole, kv_cache = block(x), KVCache((3, 4, 16, 8), torch.float32, torch.device("cpu"))
    block(x[:, :5], kv_cache, DecodePositions(torch.arange(5).unsqueeze(0), 5))
    rows = torch.tensor([2, 0, 2, 2])
    kv_cache.select_rows(rows)
    made = block(x[rows, 5:6], kv_cache, DecodePositions(torch.full((4, 1), 5), 6))
    torch.testing.assert_close(made, whole[rows, 5:6], rtol=1e-5, atol=1e-5)


def rows_at(x: Tensor, positions: Tensor) -> Tensor:
    """`[batch, seq, hidden]` at `[batch, step]` -> `[batch, step, hidden]`."""
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
