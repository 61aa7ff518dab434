"""Attention in blocks of queries is the reference, forward and backward, and no worse than torch's fused form."""

import pytest
import torch
from torch import Tensor

from model.kernels import cpu_attention
from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.cpu_attention import ROWS, blocked_attention


def both_ways(form, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    inputs = [value.detach().requires_grad_() for value in inputs]
    out = form(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient.to(out.dtype))]


def drawn(shape: tuple[int, ...], strided: bool = False) -> list[Tensor]:
    """q, k, v and a gradient; strided: as a block has them, heads beside each other in the memory of a token."""
    batch, heads, seq, width = shape
    values = torch.randn(4, batch, seq, heads, width, generator=torch.Generator().manual_seed(seq)).bfloat16()
    turned = values.transpose(2, 3)
    return list((turned if strided else turned.contiguous()).unbind())


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 8), (2, 3, 5, 16), (1, 2, ROWS - 1, 64), (2, 4, ROWS + 1, 80), (1, 2, 3 * ROWS + 17, 128)]
)
def test_it_is_the_reference_of_fp64(shape: tuple[int, ...], strided: bool) -> None:
    *inputs, gradient = drawn(shape, strided)
    right = both_ways(sdpa_attention, [value.double() for value in inputs], gradient.double())
    torchs = both_ways(sdpa_attention, inputs, gradient)
    for ours, theirs, exact in zip(both_ways(blocked_attention, inputs, gradient), torchs, right, strict=True):
        if exact.norm() > 0:  # with one token, the weights of the only key do not depend on q and k
            assert error(ours, exact) < max(6e-3, 2.5 * error(theirs, exact))


def test_no_position_sees_the_future() -> None:
    q, k, v, _ = drawn((1, 2, ROWS + 9, 8))
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[:, :, ROWS + 3 :], changed_v[:, :, ROWS + 3 :] = float("nan"), float("nan")
    found = blocked_attention(q, changed_k, changed_v)[:, :, :ROWS]
    assert torch.equal(found, blocked_attention(q, k, v)[:, :, :ROWS])


def test_compiled_it_is_one_graph_with_the_same_bits() -> None:
    *inputs, gradient = drawn((2, 2, ROWS + 40, 16), strided=True)
    compiled = torch.compile(blocked_attention, fullgraph=True, dynamic=False, backend="aot_eager")
    for one, other in zip(
        both_ways(compiled, inputs, gradient), both_ways(blocked_attention, inputs, gradient), strict=True
    ):
        assert torch.equal(one, other)


def test_torch_accepts_the_operation() -> None:
    q, k, v, _ = (value.flatten(0, 1) for value in drawn((1, 2, 40, 8)))
    torch.library.opcheck(cpu_attention._attend, tuple(value.requires_grad_() for value in (q, k, v)))


def test_other_cases_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_attend", None)
    q, k, v, _ = drawn((1, 1, 8, 8))
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    expected = reference_attention(q, k, v)
    torch.testing.assert_close(blocked_attention(q, k, v, mask), expected, rtol=2e-2, atol=2e-2)
    for one, other in ((q.float(), k.float()), (q[:, :, :1], k)):
        assert blocked_attention(one, other, v.to(one.dtype)).shape == one.shape
    monkeypatch.setattr(cpu_attention, "LARGEST", 63)
    assert torch.equal(blocked_attention(q, k, v), sdpa_attention(q, k, v))
