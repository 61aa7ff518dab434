"""apex's forms: what is said where apex is missing, and their values where it is there."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.this_machine import APEX_MODULES
from model.build import run_layers
from model.kernels import select_kernels
from model.kernels.apex_forms import apex_adamw, apex_add_of_weight, apex_norm, apex_step
from parallel.mesh import TensorParallelGroup
from tests.model.kernels.interpreted_norm import in_torch, inputs_of, results

GPU = torch.device("cuda")


@pytest.mark.parametrize("operation", APEX_MODULES)
def test_apex_that_is_missing_is_one_line(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conf.this_machine.find_spec", lambda name: None)
    config = compose_settings([f"kernels.{operation}=apex"]).kernels
    with pytest.raises(ConfigError, match=rf"kernels\.{operation}=apex needs NVIDIA's apex, and there is no module"):
        select_kernels(config, GPU)


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kernels\.norm=apex needs a GPU, not a cpu; use kernels\.norm=torch"):
        select_kernels(compose_settings(["kernels.norm=apex"]).kernels, torch.device("cpu"))


def test_kernels_apex_chooses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conf.this_machine.find_spec", lambda name: object())
    settings = compose_settings(["kernels=apex", "model=tiny", "layout.precision=bf16"])
    kernels = select_kernels(settings.kernels, GPU)
    assert kernels.describe()["norm"] == "apex_norm" and kernels.describe()["weight_gradient"] == "apex_add_of_weight"
    assert kernels.optimizer is apex_adamw and kernels.describe()["optimizer"] == "apex_adamw"
    block = run_layers(settings, TensorParallelGroup(), kernels)[1]()
    for layer in (block.in_proj, block.out_proj):
        assert layer.products.add_of_weight is apex_add_of_weight and layer.products.accumulates
    assert block.norm.form is apex_norm


def weights(device: str) -> tuple[list[nn.Parameter], torch.optim.AdamW]:
    """Of odd sizes, in two groups with and without decay, and their AdamW."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(size, generator=generator).to(device)) for size in (7, 33, 130)]
    groups = [{"params": parameters[:2], "weight_decay": 0.3}, {"params": parameters[2:], "weight_decay": 0.0}]
    return parameters, torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6, fused=True)


def refuse_far_from_torch(device: str, step: Callable[[torch.optim.AdamW], object]) -> None:
    """Three steps, gradients divided by 8, at a rate that changes: weights and state are those of torch's fused form,
    so that either goes on from the other's."""
    (found, ours), (expected, theirs) = weights(device), weights(device)
    generator = torch.Generator().manual_seed(1)
    for number in range(3):
        for one, other in zip(found, expected, strict=True):
            one.grad = torch.randn(one.shape, generator=generator).to(device)
            other.grad = one.grad.clone()
        for optimizer in (ours, theirs):
            optimizer.grad_scale = torch.tensor(8.0, device=device)  # type: ignore[attr-defined]
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (number + 1)
        step(ours)
        theirs.step()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        for key, value in theirs.state[other].items():
            torch.testing.assert_close(ours.state[one][key], value, rtol=1e-5, atol=1e-6)


def adam_kernel(
    flag: Tensor, lists: list[list[Tensor]], lr: Tensor, beta1: float, beta2: float, eps: float, step: Tensor,
    mode: int, correction: int, decay: float, inverse: Tensor,
) -> None:  # fmt: skip
    """What `multi_tensor_adam_capturable` computes, by its source; pointers are read as these types."""
    assert flag.dtype is step.dtype is torch.int and flag == 0 and lr.dtype is inverse.dtype is torch.float
    assert mode == correction == 1
    for gradient, parameter, first, second in zip(*lists, strict=True):
        gradient *= inverse
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (second / (1 - beta2 ** int(step))).sqrt() + eps
        parameter -= lr * (first / (1 - beta1 ** int(step)) / denominator + decay * parameter)


def test_adamw_gives_apex_what_its_kernel_takes_and_keeps_torch_s_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself needs a GPU: below."""
    call = SimpleNamespace(multi_tensor_applier=lambda kernel, *arguments: kernel(*arguments))
    monkeypatch.setitem(sys.modules, "apex.multi_tensor_apply", call)
    monkeypatch.setitem(sys.modules, "amp_C", SimpleNamespace(multi_tensor_adam_capturable=adam_kernel))
    refuse_far_from_torch("cpu", apex_step)


def test_offloaded_weights_are_stepped_on_by_torch() -> None:
    def step(optimizer: torch.optim.AdamW) -> None:
        if not optimizer.state:
            apex_adamw(optimizer)
        optimizer.step()

    refuse_far_from_torch("cpu", step)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or find_spec("apex") is None, reason="needs a CUDA device and apex")
class TestOnGPU:
    """apex itself beside torch in fp64."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_norm(self, dtype: torch.dtype) -> None:
        values = [value.to(dtype) for value in inputs_of((33, 1024), "cuda")]
        expected = results(in_torch, [value.double() for value in values])
        for one, other in zip(results(apex_norm, values), expected, strict=True):
            assert (one.double() - other).abs().max() < (1e-5 if dtype is torch.float32 else 1e-2) * other.abs().max()

    def test_weight_gradient(self) -> None:
        pytest.importorskip("fused_weight_gradient_mlp_cuda")
        x, gradient = (torch.randn(64, size, device="cuda").bfloat16() for size in (128, 256))
        total, expected = torch.full((256, 128), float("nan"), device="cuda"), gradient.double().t() @ x.double()
        for times in (1, 2):
            apex_add_of_weight(total, (gradient,), (x,), times == 1)
            torch.testing.assert_close(total.double(), times * expected, rtol=1e-5, atol=1e-4)

    def test_adamw(self) -> None:
        pytest.importorskip("amp_C")
        refuse_far_from_torch("cuda", apex_step)
