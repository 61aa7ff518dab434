"""One door to every operation that has more than one form: `select` chooses the forms of a run, once, at start-up.

What may enter: an operation with its plain-torch reference and its faster forms, tested against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from conf.choices import KernelForm
from conf.schema import KernelsConfig
from model.kernels.attention import reference_attention, sdpa_attention


@dataclass(frozen=True)
class Operations:
    """The chosen forms. attention: q, k, v `[batch, heads, seq, head_dim]` -> the same, causal or as `seen` says.

    compile: whether blocks and loss go through torch.compile.
    """

    attention: Callable[..., Tensor]
    compile: bool

    def describe(self) -> dict[str, str]:
        """Operation -> the name of its form, for the log."""
        return {"attention": self.attention.__name__, "compile": "inductor" if self.compile else "off"}


def select(settings: KernelsConfig) -> Operations:
    """Choose the forms that `settings` asks for."""
    attention = reference_attention if settings.attention is KernelForm.reference else sdpa_attention
    return Operations(attention=attention, compile=settings.compile)


REFERENCE = Operations(attention=reference_attention, compile=False)
