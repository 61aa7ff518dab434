"""What a run that trains on this machine asks of it, and it does not have: a GPU, or NVIDIA's apex.

The nodes of a cluster look for themselves, by the same functions: the machine that submits may have less.
"""

from collections.abc import Iterator
from enum import Enum
from importlib.util import find_spec

from conf.choices import Precision
from conf.errors import ConfigError
from conf.schema import Settings

APEX_MODULES = {  # what each operation imports
    "norm": "apex",
    "weight_gradient": "fused_weight_gradient_mlp_cuda",
    "optimizer": "amp_C",
}


def check_this_machine(settings: Settings, has_gpu: bool) -> None:
    """Errors: `ConfigError` for the first setting that this machine cannot serve."""
    device = "cuda" if has_gpu else "cpu"
    check_precision(settings.layout.precision, device)
    for operation, form in vars(settings.kernels).items():
        if isinstance(form, Enum):
            check_kernel(operation, form, device)


def check_precision(precision: Precision, device: str) -> None:
    """Errors: `ConfigError` for a precision that no device of this type has."""
    if precision is Precision.fp16 and device == "cpu":
        raise ConfigError("precision=fp16 does not work on a CPU; use auto, fp32 or bf16")


def check_kernel(operation: str, form: Enum, device: str | None) -> None:
    """device: torch's name of the type; None: not known. Errors: `ConfigError` where it cannot run the form of
    `kernels.<operation>`, or a module of it is not installed."""
    for problem in _kernel_problems(operation, form.value, device):
        raise ConfigError(f"kernels.{operation}={form.value} needs {problem} kernels.{operation}=torch")


def _kernel_problems(operation: str, form: str, device: str | None) -> Iterator[str]:
    if form in ("triton", "apex") and device not in (None, "cuda"):
        yield f"a GPU, not a {device}; use"
    if form == "apex" and find_spec(module := APEX_MODULES[operation]) is None:
        yield f"NVIDIA's apex, and there is no module {module}; install it as README.md says, or use"
