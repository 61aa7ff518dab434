"""The whole model forward and backward on a device that does not exist, in a process of its own: what a tensor that is
left on the CPU does on a GPU, it does here. Torch's wheel for CPUs is enough."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from conf.compose import compose_settings
from model.build import run_layers
from model.kernels import select_kernels
from parallel.engine import Stack
from parallel.mesh import TensorParallelGroup

CASES = [  # settings beside model=350m
    ["kernels=eager", "layout.precision=bf16"],
    ["kernels=reference", "layout.recompute=full", "layout.precision=bf16"],
    ["kernels=eager", "layout.recompute=selective", "layout.precision=fp8", "model.dropout=0.1"],
]


def run(overrides: list[str], plant: str = "") -> set[str]:
    """Devices of the gradients of a model of the paper's smallest size. plant: what is left on the CPU by mistake."""
    settings = compose_settings(["model=350m", "model.n_layer=2", *overrides])
    device, alone = torch.device("paper", 0), TensorParallelGroup()
    kernels = select_kernels(settings.kernels)
    with FakeTensorMode():
        with device:
            stack = Stack(*(build() for build in run_layers(settings, alone, kernels))).train()
        if plant == "rotary":
            stack[1].rotary = torch.zeros(stack[1].rotary.shape)
        ids = torch.zeros(1, settings.model.context_length, dtype=torch.long, device=device)
        labels = ids.cpu() if plant == "labels" else ids
        stack(ids, labels).backward()
        return {str(parameter.grad.device) for parameter in stack.parameters() if parameter.grad is not None}


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend("paper")
    torch.paper.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]  # recomputing asks
    torch.set_default_dtype(torch.bfloat16)  # of the parameters
    for case in CASES:
        assert run(case) == {"paper:0"}, case
    for plant in ("labels", "rotary"):
        try:
            run(CASES[0], plant)
        except (RuntimeError, ValueError) as error:
            assert "paper" in str(error) and "cpu" in str(error), error
        else:
            raise AssertionError(f"{plant} on the CPU were not found")
    print("all on the device")
