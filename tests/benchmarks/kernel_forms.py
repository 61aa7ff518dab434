"""The forms of each operation, as steps that `tests.benchmarks.kernels` times."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Step = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """Shape of one micro-batch. width: channels of the residual stream; device, dtype: of every activation."""

    name: str
    batch: int
    seq: int
    width: int
    heads: int
    rotary_dim: int
    vocabulary: int
    device: torch.device
    dtype: torch.dtype

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.batch * self.seq

    def random(self, *size: int, scale: float = 1.0) -> Tensor:
        """Normal values; `requires_grad`."""
        return (torch.randn(*size, device=self.device, dtype=self.dtype) * scale).requires_grad_()


@dataclass(frozen=True)
class Operation:
    """Forms of one operation by name, each a step that runs it once; bytes and flops: what one step needs.

    subtract: a step whose time is taken off each form's, for what is part of all of them.
    """

    forms: dict[str, Callable[[], Step]]
    bytes: float = 0.0
    flops: float = 0.0
    subtract: Callable[[], Step] | None = None


def both_ways(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Step]:
    """A step that runs `function` forward and backward, for those of `inputs` that require a gradient."""

    def prepare() -> Step:
        wanted = [value for value in inputs if value.requires_grad]
        gradient = torch.randn_like(function(*inputs))
        return lambda: torch.autograd.grad(function(*inputs), wanted, gradient)

    return prepare


def attention(shape: Shape) -> Operation:
    """Causal attention. Source of the backward pass's 2.5 times the forward's arithmetic: FlashAttention."""
    from model.kernels.attention import reference_attention, sdpa_attention
    from model.kernels.cpu_attention import blocked_attention

    head_dim = shape.width // shape.heads
    q, k, v = (shape.random(shape.batch, shape.seq, shape.heads, head_dim) for _ in range(3))

    def run(form: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return form(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    forms = {"reference": partial(run, reference_attention), "torch's choice": partial(run, sdpa_attention)}
    if shape.device.type == "cpu" and shape.dtype is torch.bfloat16:
        forms["blocks of queries"] = partial(run, blocked_attention)
    if shape.device.type == "cuda":
        for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
            forms[backend.lower()] = partial(run, partial(_with_backend, backend))
    try:
        from flash_attn_interface import flash_attn_func  # type: ignore[import-not-found]

        forms["flash attention 3"] = lambda q, k, v: _first(flash_attn_func(q, k, v, causal=True))
    except ImportError:
        pass
    flops = 3.5 * 2 * shape.batch * shape.heads * shape.seq**2 * head_dim
    return Operation({name: both_ways(form, q, k, v) for name, form in forms.items()}, flops=flops)


def _with_backend(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(getattr(SDPBackend, name)):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def branches(shape: Shape) -> Operation:
    """The block's middle without attention's own time.

    Moved per token: forward q, k in and out, attention's output and the MLP's in, both out: 14 d. Backward: gradient
    and pre-activation in, gradient out, 12 d; gradients of q, k, v in and out, 6 d.
    """
    from model.kernels.attention import sdpa_attention
    from model.kernels.branches import reference_branches
    from model.rotary import rotary_table

    d, head_dim = shape.width, shape.width // shape.heads
    projected, bias = shape.random(shape.batch, shape.seq, 7 * d), shape.random(4 * d)
    table = rotary_table(shape.seq, shape.rotary_dim, shape.device)

    def run(form: Callable[..., Tensor], projected: Tensor, bias: Tensor) -> Tensor:
        return form(projected, bias, table, shape.heads, sdpa_attention)

    forms = {
        "torch, eager": partial(run, reference_branches),
        "torch, inductor": torch.compile(partial(run, reference_branches), dynamic=False),
    }
    if shape.device.type == "cuda":
        from model.kernels.triton_branches import triton_branches

        forms["triton"] = partial(run, triton_branches)
    q, k, v = (shape.random(shape.batch, shape.seq, shape.heads, head_dim).transpose(1, 2).detach() for _ in range(3))
    alone = both_ways(sdpa_attention, *(value.requires_grad_() for value in (q, k, v)))
    prepared = {name: both_ways(form, projected, bias) for name, form in forms.items()}
    return Operation(prepared, 32 * d * shape.tokens * projected.element_size(), subtract=alone)


def weight_gradient(shape: Shape) -> Operation:
    """in_proj's weight gradient, added to the fp32 sum over micro-batches."""
    out, width = 7 * shape.width, shape.width
    x, gradient = shape.random(shape.tokens, width).detach(), shape.random(shape.tokens, out).detach()
    total = torch.zeros(out, width, device=shape.device)
    transposed = gradient.t()

    def product_then_sum() -> Tensor:
        return total.add_(transposed @ x)

    forms: dict[str, Callable[[], Step]] = {"product, then sum": lambda: product_then_sum}
    if shape.device.type == "cuda":
        addmm = torch.ops.aten.addmm.dtype_out
        forms["addmm into fp32"] = lambda: lambda: addmm(total, transposed, x, torch.float32, out=total)
    try:
        import fused_weight_gradient_mlp_cuda as apex  # type: ignore[import-not-found]

        forms["apex"] = lambda: lambda: apex.wgrad_gemm_accum_fp32(x, gradient, total)
    except ImportError:
        pass
    return Operation(forms, flops=2 * shape.tokens * out * width)


def vocabulary_loss(shape: Shape) -> Operation:
    """The head's product and the cross-entropy, with their gradients: three products."""
    from parallel.cross_entropy import LossOptions, chunked_cross_entropy
    from parallel.mesh import TensorParallelGroup

    weight, bias = shape.random(shape.vocabulary, shape.width, scale=0.02), shape.random(shape.vocabulary)
    hidden = shape.random(shape.batch, shape.seq, shape.width)
    labels = torch.randint(0, shape.vocabulary, (shape.batch, shape.seq), device=shape.device)
    forms: dict[str, Callable[[], Step]] = {}
    for chunk in (shape.tokens // 16, shape.tokens // 4):
        for compile in (False, True):
            options = LossOptions(1e-4, chunk, TensorParallelGroup(), compile)
            run = partial(chunked_cross_entropy, labels=labels, options=options)
            name = f"chunks of {chunk}, {'inductor' if compile else 'eager'}"
            forms[name] = both_ways(run, hidden, weight, bias)
    return Operation(forms, flops=6 * shape.tokens * shape.width * shape.vocabulary)


def products(shape: Shape) -> Operation:
    """in_proj's three products, forward and both gradients, bf16 beside fp8, also with the operands already cast."""
    from model.kernels.fp8 import FP8
    from parallel.tensor_parallel import linear

    out, width = 7 * shape.width, shape.width
    x, weight = shape.random(shape.tokens, width).detach(), shape.random(out, width).detach()
    gradient = shape.random(shape.tokens, out).detach()

    def plain() -> None:
        torch.mm(x, weight.t())
        torch.mm(gradient, weight)
        torch.mm(gradient.t(), x)

    forms: dict[str, Callable[[], Step]] = {"bf16": lambda: plain}
    inputs = x[None].requires_grad_(), weight.requires_grad_()
    with_casts = partial(linear, products=FP8)
    forms["fp8 with its casts"] = both_ways(with_casts, *inputs)
    if shape.device.type == "cuda":
        for rowwise in (False, True):
            forms[f"fp8 already cast, {'rowwise' if rowwise else 'per tensor'}"] = lambda rowwise=rowwise: (
                lambda: fp8(rowwise)
            )
    e4m3 = torch.float8_e4m3fn
    pairs = ((x, weight), (gradient, weight.t()), (gradient.t(), x.t()))
    cast = (
        [(a.contiguous().to(e4m3), b.contiguous().to(e4m3).t()) for a, b in pairs]
        if shape.device.type == "cuda"
        else []
    )
    ones = partial(torch.ones, device=shape.device)

    def fp8(rowwise: bool) -> None:
        for a, b in cast:
            sizes = ((len(a), 1), (1, b.shape[1])) if rowwise else ((), ())
            torch._scaled_mm(a, b, ones(sizes[0]), ones(sizes[1]), out_dtype=torch.bfloat16, use_fast_accum=False)

    return Operation(forms, flops=6 * shape.tokens * out * width)


def fp8_casts(shape: Shape) -> Operation:
    """What in_proj's fp8 products read: each operand in fp8 and transposed, read once more for its largest value."""
    out, width = 7 * shape.width, shape.width
    operands = [shape.random(*size).detach() for size in ((shape.tokens, width), (out, width), (shape.tokens, out))]

    def casts(operands: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        done = []
        for value in operands:
            scale = 448.0 / value.abs().amax().float().clamp(min=1e-12)
            low = (value * scale).to(torch.float8_e4m3fn)
            done.append((low, low.t().contiguous(), scale))
        return done

    compiled = torch.compile(casts, dynamic=False)
    forms = {"torch, eager": lambda: partial(casts, operands), "torch, inductor": lambda: partial(compiled, operands)}
    return Operation(forms, sum(value.numel() * (2 * value.element_size() + 2) for value in operands))


def layer_norm(shape: Shape) -> Operation:
    """The block's LayerNorm: x in, y out; gradient and x in, gradient out."""
    norm = torch.nn.LayerNorm(shape.width, device=shape.device, dtype=shape.dtype)
    x = shape.random(shape.batch, shape.seq, shape.width)
    plain = partial(torch.nn.functional.layer_norm, normalized_shape=(shape.width,))

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return plain(x, weight=weight, bias=bias)

    forms: dict[str, Callable[..., Tensor]] = {
        "torch, eager": run,
        "torch, inductor": torch.compile(run, dynamic=False),
    }
    if shape.device.type == "cuda":
        from model.kernels.triton_norm import triton_norm

        forms["triton"] = partial(triton_norm, epsilon=1e-5)
    try:
        from apex.normalization import FusedLayerNorm  # type: ignore[import-not-found]

        fused = FusedLayerNorm(shape.width).to(shape.device, shape.dtype)
        forms["apex"] = lambda x, weight, bias: fused(x)
    except ImportError:
        pass
    prepared = {name: both_ways(form, x, norm.weight, norm.bias) for name, form in forms.items()}
    return Operation(prepared, 5 * shape.tokens * shape.width * x.element_size())


def optimizer(shape: Shape) -> Operation:
    """AdamW on four blocks' fp32 weights: four tensors in, three out."""
    count = 4 * 12 * shape.width**2
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "torch, fused": partial(torch.optim.AdamW, fused=True),
        "torch, foreach": partial(torch.optim.AdamW, foreach=True),
    }
    try:
        from apex.optimizers import FusedAdam

        kinds["apex"] = partial(FusedAdam, adam_w_mode=True)
    except ImportError:
        pass
    if shape.device.type == "cuda":  # compiled when it is first asked for
        from deepspeed.ops.adam import FusedAdam as CopyOfApex  # type: ignore[import-untyped]

        kinds["deepspeed"] = partial(CopyOfApex, adam_w_mode=True)

    def prepare(kind: Callable[..., torch.optim.Optimizer]) -> Step:
        parameters = [torch.nn.Parameter(torch.zeros(count // 4, device=shape.device)) for _ in range(4)]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return kind(parameters, lr=1e-4, weight_decay=0.1).step

    return Operation({name: partial(prepare, kind) for name, kind in kinds.items()}, 7 * 4 * count)


OPERATIONS: dict[str, Callable[[Shape], Operation]] = {
    "attention": attention,
    "branches": branches,
    "weight_gradient": weight_gradient,
    "products": products,
    "fp8_casts": fp8_casts,
    "optimizer": optimizer,
    "vocabulary_loss": vocabulary_loss,
    "layer_norm": layer_norm,
}
