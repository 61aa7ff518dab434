"""Rotary position embedding, against complex numbers: a pair of channels is one number, and a position turns it."""

import torch

from conf.choices import Recompute
from conf.compose import compose_settings
from model.codegen import Block
from model.kernels import REFERENCE
from model.rotary import apply_rotary, rotary_table
from parallel.mesh import TensorParallelGroup


def test_pairs_of_channels_turn_as_complex_numbers() -> None:
    x = torch.randn(2, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    pairs = torch.view_as_complex(x[..., :6].double().unflatten(-1, (3, 2)).contiguous())
    angle = torch.outer(torch.arange(7.0).double(), 10000.0 ** (-torch.arange(0, 6, 2).double() / 6))
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    result = apply_rotary(x, rotary_table(7, 6))
    torch.testing.assert_close(result[..., :6], turned.float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(result[..., 6:], x[..., 6:])


def test_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    table = rotary_table(40, 8)
    score = [
        (apply_rotary(q, table[:, i : i + 1]) * apply_rotary(k, table[:, j : j + 1])).sum()
        for i, j in ((9, 4), (35, 30))
    ]
    torch.testing.assert_close(*score, rtol=1e-4, atol=1e-5)


def test_a_cast_block_turns_by_the_angles_of_an_fp32_one() -> None:
    """Training casts its layers, sampling reads them in bf16: both have the table of Hugging Face's."""
    block = Block(compose_settings(["model=tiny"]).model, TensorParallelGroup(), REFERENCE, Recompute.none, 1)
    exact = block.rotary.clone()
    assert block.to(torch.bfloat16).in_proj.weight.dtype == torch.bfloat16
    assert block.rotary.dtype == torch.float32 and torch.equal(block.rotary, exact)
    assert block.to("meta").rotary.is_meta
