"""The fastest attention of a GPU for a model's heads, by timing a forward and a backward pass at start-up.

torch chooses among its own forms by rules, which are right on an H100; on other GPUs, and where FlashAttention-3 is
installed, another may be faster.
"""

import statistics
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.kernels.attention import sdpa_attention

Attention = Callable[..., Tensor]
FLASH3 = "flash_attn_interface"  # the module that FlashAttention-3 installs
GAIN = 0.03  # of the time, that another form than torch's choice must save
ROUNDS = 7


def by_backend(backend: SDPBackend) -> Attention:
    """`sdpa_attention` by one of torch's forms where it is causal; with a mask, by torch's choice."""

    def form(q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None or q.is_meta:
            return sdpa_attention(q, k, v, attention_mask)
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    form.__name__ = backend.name.lower()
    return form


def flash3_attention(q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """FlashAttention-3 (arXiv 2407.08608) where it is causal; with a mask, torch's choice."""
    if attention_mask is not None or q.is_meta:
        return sdpa_attention(q, k, v, attention_mask)
    from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]

    out = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=True)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # type: ignore[no-any-return]


def candidates() -> list[Attention]:
    """torch's choice, its forms for GPUs, and FlashAttention-3 where it is installed."""
    backends = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    own = [flash3_attention] if find_spec(FLASH3) else []
    return [sdpa_attention, *map(by_backend, backends), *own]


def fastest_attention(heads: int, head_dim: int, seq: int, dtype: torch.dtype, device: torch.device) -> Attention:
    """The fastest of `candidates` on `device`, a GPU; torch's choice unless another saves `GAIN` of its time."""
    seconds: dict[Attention, float] = {}
    for form in candidates():
        try:
            seconds[form] = _seconds(form, heads, head_dim, seq, dtype, device)
        except (RuntimeError, ImportError):  # this GPU or torch has no such form for these heads
            continue
    return fastest(seconds)


def fastest(seconds: dict[Attention, float]) -> Attention:
    """The form of the least time; the first one, where it was timed, unless another saves `GAIN` of its time."""
    best = min(seconds, key=seconds.__getitem__, default=sdpa_attention)
    ours = seconds.get(sdpa_attention)
    return sdpa_attention if ours is not None and seconds[best] > (1 - GAIN) * ours else best


def _seconds(form: Attention, heads: int, head_dim: int, seq: int, dtype: torch.dtype, device: torch.device) -> float:
    shape = (2, seq, heads, head_dim)
    q, k, v = (torch.randn(shape, dtype=dtype, device=device).transpose(1, 2).requires_grad_() for _ in range(3))
    taken = []
    for _ in range(2 + ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        out = form(q, k, v)
        torch.autograd.grad(out, (q, k, v), out.detach())
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return float(statistics.median(taken[2:]))
