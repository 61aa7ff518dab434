"""The chunked vocabulary loss is torch's cross-entropy, in value and gradient, and never holds the whole logits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conf.choices import IGNORE_INDEX
from parallel.cross_entropy import LossOptions, chunked_cross_entropy
from parallel.mesh import TensorParallelGroup
from tests.parallel import cases
from tests.worlds import Worlds

TOKENS, WIDTH, VOCABULARY = 24, 16, 40


def inputs(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, TOKENS // 2, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    values = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    labels = torch.randint(0, VOCABULARY, (2, TOKENS // 2), generator=generator)
    labels[1, 2:5] = IGNORE_INDEX
    return values, labels


def reference(values: list[torch.Tensor], labels: torch.Tensor, z_loss: float) -> torch.Tensor:
    hidden, weight, bias = values
    logits = (hidden @ weight.T + bias).float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return loss + z_loss * (logits.logsumexp(-1).square() * (labels != IGNORE_INDEX)).sum()


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize(
    ("chunk", "compiled"), [(1, False), (7, False), (TOKENS, False), (100, False), (7, True), (TOKENS, True)]
)
def test_loss_and_gradients_are_torchs(chunk: int, compiled: bool, z_loss: float) -> None:
    values, labels = inputs()
    loss = chunked_cross_entropy(*values, labels, LossOptions(z_loss, chunk, TensorParallelGroup(), compiled))
    (0.3 * loss).backward()
    twins, _ = inputs()
    expected = reference(twins, labels, z_loss)
    (0.3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    for value, twin in zip(values, twins, strict=True):
        torch.testing.assert_close(value.grad, twin.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [7, TOKENS])
def test_a_frozen_head_leaves_the_hidden_states_gradient(chunk: int) -> None:
    gradients = []
    for frozen in (False, True):
        values, labels = inputs()
        for value in values[1:]:
            value.requires_grad_(not frozen)
        chunked_cross_entropy(*values, labels, LossOptions(0.01, chunk, TensorParallelGroup())).backward()
        gradients.append(values[0].grad)
        assert all((value.grad is None) is frozen for value in values[1:])
    assert gradients[0].equal(gradients[1])


def test_bf16_loss_is_as_near_to_fp32_as_bf16_inputs_allow() -> None:
    """Inputs and the logits' gradient are rounded to 8 bits, sums are fp32: a logit near 16 by 2^-5."""
    values, labels = inputs(torch.bfloat16)
    loss = chunked_cross_entropy(*values, labels, LossOptions(0.0, 7, TensorParallelGroup()))
    loss.backward()
    twins = [value.detach().float().requires_grad_() for value in values]
    expected = reference(twins, labels, 0.0)
    expected.backward()
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, expected, rtol=2**-7, atol=0)
    for value, twin in zip(values, twins, strict=True):
        bound = 2**-5 * twin.grad.abs().max().item()
        torch.testing.assert_close(value.grad.float(), twin.grad, rtol=0, atol=bound)


def test_without_gradients_the_loss_is_the_same() -> None:
    values, labels = inputs()
    options = LossOptions(0.0, 7, TensorParallelGroup())
    with torch.no_grad():
        alone = chunked_cross_entropy(*values, labels, options)
    assert not alone.requires_grad
    torch.testing.assert_close(alone, chunked_cross_entropy(*values, labels, options).detach())


@pytest.mark.parametrize("chunk", [7, TOKENS])
def test_a_frozen_head_has_no_gradient_and_its_input_has_the_same(chunk: int) -> None:
    gradients = []
    for frozen in (False, True):
        (hidden, weight, bias), labels = inputs()
        for parameter in (weight, bias):
            parameter.requires_grad_(not frozen)
        chunked_cross_entropy(hidden, weight, bias, labels, LossOptions(0.01, chunk, TensorParallelGroup())).backward()
        assert frozen == (weight.grad is None) == (bias.grad is None)
        gradients.append(hidden.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("chunk", [1, 7, TOKENS])
def test_compiling_changes_nothing(chunk: int) -> None:
    results = []
    for compiled in (False, True):
        values, labels = inputs()
        loss = chunked_cross_entropy(*values, labels, LossOptions(0.01, chunk, TensorParallelGroup(), compiled))
        loss.backward()
        results.append([loss, *(value.grad for value in values)])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)


def test_labels_that_do_not_count_leave_no_trace() -> None:
    values, labels = inputs()
    loss = chunked_cross_entropy(
        *values, torch.full_like(labels, IGNORE_INDEX), LossOptions(0.01, 7, TensorParallelGroup())
    )
    loss.backward()
    assert loss == 0 and all(not value.grad.any() for value in values)


def test_no_tensor_is_larger_than_a_chunk_of_logits() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, arguments=(), keys=None):
            result = function(*arguments, **(keys or {}))
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    values, labels = inputs()
    largest = {}
    for chunk in (3, TOKENS):
        with Largest() as seen:
            chunked_cross_entropy(*values, labels, LossOptions(0.0, chunk, TensorParallelGroup())).backward()
        largest[chunk] = seen.numel
    weight = VOCABULARY * WIDTH
    assert largest[3] == max(3 * VOCABULARY, weight)
    assert largest[TOKENS] == TOKENS * VOCABULARY


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(("size", "z_loss"), [(2, 0.0), (2, 0.01), (4, 0.01)])
def test_a_cut_vocabulary_gives_the_same_loss(
    size: int, z_loss: float, sequence_parallel: bool, worlds: Worlds
) -> None:
    worlds(size).run(cases.vocabulary_loss, size, sequence_parallel, z_loss)
