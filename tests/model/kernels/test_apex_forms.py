"""apex's forms: what is said where apex is missing, and their values where it is there."""

from importlib.util import find_spec

import pytest
import torch

from conf.compose import compose_settings
from conf.errors import ConfigError
from model.build import run_layers
from model.kernels import select_kernels
from model.kernels.apex_forms import MODULES, apex_add_of_weight, apex_norm
from parallel.mesh import TensorParallelGroup
from tests.model.kernels.interpreted_norm import in_torch, inputs_of, results

GPU = torch.device("cuda")


@pytest.mark.parametrize("operation", MODULES)
def test_apex_that_is_missing_is_one_line(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.kernels.apex_forms.find_spec", lambda name: None)
    config = compose_settings([f"kernels.{operation}=apex"]).kernels
    with pytest.raises(ConfigError, match=rf"kernels\.{operation}=apex needs NVIDIA's apex, and there is no module"):
        select_kernels(config, GPU)


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kernels\.norm=apex needs a GPU, not a cpu; use kernels\.norm=torch"):
        select_kernels(compose_settings(["kernels.norm=apex"]).kernels, torch.device("cpu"))


def test_kernels_apex_chooses_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.kernels.apex_forms.find_spec", lambda name: object())
    settings = compose_settings(["kernels=apex", "model=tiny", "layout.precision=bf16"])
    kernels = select_kernels(settings.kernels, GPU)
    assert kernels.describe()["norm"] == "apex_norm" and kernels.describe()["weight_gradient"] == "apex_add_of_weight"
    block = run_layers(settings, TensorParallelGroup(), kernels)[1]()
    for layer in (block.in_proj, block.out_proj):
        assert layer.products.add_of_weight is apex_add_of_weight and layer.products.accumulates
    assert block.norm.form is apex_norm


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
