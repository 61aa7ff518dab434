"""The fused attention is the reference, forward and backward."""

import pytest
import torch

from model.kernels.attention import reference_attention, sdpa_attention


@pytest.mark.parametrize("shape", [(1, 1, 5, 8), (2, 4, 33, 16), (2, 3, 64, 80)])
def test_fused_attention_is_the_reference(shape: tuple[int, ...]) -> None:
    results = []
    for form in (reference_attention, sdpa_attention):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(shape, generator=generator).requires_grad_() for _ in range(3)]
        output = form(*inputs)
        output.square().sum().backward()
        results.append([output, *(value.grad for value in inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_no_position_sees_the_future() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8)
    changed = v.clone()
    changed[:, :, 5:] = 7.0
    for form in (reference_attention, sdpa_attention):
        torch.testing.assert_close(form(q, k, v)[:, :, :5], form(q, k, changed)[:, :, :5])
