"""Documents side by side: each form is the reference on each document by itself, forward and backward."""

from unittest.mock import patch

import pytest
import torch

from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.branches import reference_branches
from model.kernels.documents import flex_attention, flex_documents, masked_documents
from model.rotary import rotary_table

LENGTHS = [(5, 1, 11), (17,), (8, 9), (1, 1, 15)]
SEQ, HEADS, HEAD_DIM = 17, 2, 8
POSITIONS = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in LENGTHS]).int()
FORMS = {
    "reference": (masked_documents, reference_attention),
    "sdpa": (masked_documents, sdpa_attention),
    "flex": (flex_documents, flex_attention),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_document_is_by_itself(form: str) -> None:
    """The block's whole middle, so that rotary positions restart too."""
    make, attention = FORMS[form]
    generator = torch.Generator().manual_seed(0)
    d = HEADS * HEAD_DIM
    projected = torch.randn(len(LENGTHS), SEQ, 7 * d, generator=generator).requires_grad_()
    bias, table = torch.randn(4 * d, generator=generator), rotary_table(SEQ, 4)
    documents = make(POSITIONS)
    angles = table[:, documents.positions].unsqueeze(2)
    with patch("torch.nn.attention.flex_attention._validate_device"):  # refuses backward on a CPU for its compiled form
        out = reference_branches(projected, bias, angles, HEADS, attention, documents.mask)
        (gradient,) = torch.autograd.grad(out.square().sum(), projected)
    for row, lengths in enumerate(LENGTHS):
        pieces = [
            reference_branches(piece, bias, table, HEADS, reference_attention)
            for piece in projected[row : row + 1].split(lengths, dim=1)
        ]
        alone = torch.cat(pieces, dim=1)
        torch.testing.assert_close(out[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        (expected,) = torch.autograd.grad(alone.square().sum(), projected)
        torch.testing.assert_close(gradient[row], expected[row], rtol=1e-4, atol=1e-4)


def test_blocks_without_a_pair_of_one_document_are_left_out() -> None:
    """Eight documents of a block each: of 36 causal blocks the 8 on the diagonal are computed."""
    positions = torch.arange(128).repeat(8).unsqueeze(0)
    assert flex_documents(positions).mask.sparsity() == pytest.approx(100 * (1 - 8 / 64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head_dim", [64, 80, 256])
def test_compiled_flex_attention_on_a_gpu(head_dim: int) -> None:
    """The heads of 350M, 2B and 6B, in bf16 beside fp32: within a few of bf16's steps of 1/256."""
    generator = torch.Generator("cuda").manual_seed(0)
    positions = torch.tensor([[*range(700), *range(1000), *range(348)], [*range(2048)]], device="cuda").int()
    q, k, v, gradient = torch.randn(4, 2, 4, 2048, head_dim, generator=generator, device="cuda")
    results = []
    for make, attention, dtype in (
        (masked_documents, reference_attention, torch.float32),
        (flex_documents, flex_attention, torch.bfloat16),
    ):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = attention(*inputs, make(positions).mask)
        results.append([out, *torch.autograd.grad(out, inputs, gradient.to(dtype))])
    for expected, found in zip(*results, strict=True):
        assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()
