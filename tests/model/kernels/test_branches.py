"""The reference of the block's middle: where each part lies, and what reaches it."""

import torch

from model.kernels.attention import reference_attention
from model.kernels.branches import merge_branches, reference_branches, split_projection
from model.rotary import rotary_table

BATCH, SEQ, HEADS, HEAD_DIM = 2, 7, 3, 8
D = HEADS * HEAD_DIM


def test_the_projection_holds_q_k_v_and_mlp_in_this_order() -> None:
    projected = torch.arange(7.0 * D).expand(BATCH, SEQ, -1)
    *qkv, mlp = split_projection(projected, HEADS)
    for place, part in enumerate(qkv):
        assert part.shape == (BATCH, HEADS, SEQ, HEAD_DIM)
        assert part[0, :, 0].flatten().equal(torch.arange(place * D, (place + 1) * D, dtype=torch.float32))
    assert mlp.shape == (BATCH, SEQ, 4 * D) and mlp[0, 0, 0] == 3 * D


def test_attention_stands_before_the_activated_mlp() -> None:
    attended, mlp, bias = torch.randn(BATCH, HEADS, SEQ, HEAD_DIM), torch.randn(BATCH, SEQ, 4 * D), torch.randn(4 * D)
    out = merge_branches(attended, mlp, bias)
    assert out.shape == (BATCH, SEQ, 5 * D)
    assert out[1, 4, 2 * HEAD_DIM : 3 * HEAD_DIM].equal(attended[1, 2, 4])
    x = (mlp + bias).double()
    tanh = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    torch.testing.assert_close(out[..., D:].double(), x * (1 + tanh.tanh()) / 2, rtol=1e-5, atol=1e-6)


def test_a_token_depends_on_those_before_and_on_relative_positions_only() -> None:
    torch.manual_seed(0)
    projected, bias, table = torch.randn(1, SEQ, 7 * D), torch.zeros(4 * D), rotary_table(SEQ + 4, 4)
    out = reference_branches(projected, bias, table, HEADS, reference_attention)
    changed = projected.clone()
    changed[:, 5:] += 1
    assert reference_branches(changed, bias, table, HEADS, reference_attention)[:, :5].equal(out[:, :5])
    shifted = reference_branches(projected, bias, table[:, 4:], HEADS, reference_attention)
    torch.testing.assert_close(shifted, out, rtol=1e-4, atol=1e-5)
