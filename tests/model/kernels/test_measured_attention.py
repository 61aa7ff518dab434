"""Which attention is chosen, and that every form that may be is the reference."""

import pytest
import torch
from torch.nn.attention import SDPBackend

from conf.compose import compose_settings
from model.kernels import select_kernels
from model.kernels.attention import reference_attention, sdpa_attention
from model.kernels.measured_attention import GAIN, by_backend, candidates, fastest, fastest_attention


def test_another_form_must_save_more_than_noise() -> None:
    other = by_backend(SDPBackend.FLASH_ATTENTION)
    assert fastest({sdpa_attention: 1.0, other: 1.0 - GAIN / 2}) is sdpa_attention
    assert fastest({sdpa_attention: 1.0, other: 1.0 - GAIN * 2}) is other
    assert fastest({sdpa_attention: 0.9, other: 1.0}) is sdpa_attention
    assert fastest({other: 5.0}) is other and fastest({}) is sdpa_attention


def test_a_backend_is_the_reference_and_leaves_masks_to_torch() -> None:
    form = by_backend(SDPBackend.FLASH_ATTENTION)  # a CPU has one too
    q, k, v = torch.randn(3, 2, 3, 17, 8)
    torch.testing.assert_close(form(q, k, v), reference_attention(q, k, v))
    mask = torch.rand(2, 1, 17, 17) < 0.7
    mask[..., 0] = True
    torch.testing.assert_close(form(q, k, v, mask), reference_attention(q, k, v, mask))
    assert form.__name__ == "flash_attention"


def test_a_plan_takes_torch_s_choice() -> None:
    settings = compose_settings(["kernels=auto"])
    assert select_kernels(settings.kernels).attention is sdpa_attention


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_every_form_of_a_gpu_is_the_reference(head_dim: int) -> None:
    """bf16 keeps 8 bits of the probabilities and of what they weigh."""
    shape, device = (2, 257, 4, head_dim), torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    values = [torch.randn(shape, generator=generator, device=device).bfloat16() for _ in range(4)]

    def results(form: object, values: list[torch.Tensor]) -> list[torch.Tensor]:
        q, k, v = (value.transpose(1, 2).detach().requires_grad_() for value in values[:3])
        out = form(q, k, v)  # type: ignore[operator]
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), values[3].transpose(1, 2))]

    expected, ran = results(reference_attention, [value.float() for value in values]), []
    for form in candidates():
        try:
            found = results(form, values)
        except RuntimeError:  # not for these heads
            continue
        ran.append(form.__name__)
        for one, other in zip(found, expected, strict=True):
            assert (one.float() - other).abs().max() < 0.02 * other.abs().max(), form.__name__
    chosen = fastest_attention(4, head_dim, 512, torch.bfloat16, device).__name__
    assert "sdpa_attention" in ran and chosen in ran, (chosen, ran)
