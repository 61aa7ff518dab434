"""Seconds of one optimizer step, predicted from a GPU's figures (`cluster.gpu`) and counts of operations and bytes.

Each part of a block is bound by matrix products or by memory, and takes its operations or bytes over the rate that such
work reaches while training; collectives take their bytes over the bandwidth of the link, less what computing hides.
`train.plan.published` compares the same prediction with rates that others have published.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise

from conf.check import data_parallel_size, gradient_accumulation_steps
from conf.choices import FusedForm, Precision, QuantizeFrozen, Recompute
from conf.cluster_schema import GpuConfig
from conf.lora import is_lora
from conf.schema import FinetuneConfig, LayoutConfig, ModelConfig, Settings
from model.flops import flops_per_token
from parallel.pipeline import pipeline_bounds, pipeline_bubble
from train.plan.shapes import gpus_of_node

HALF, FULL = 2, 4  # bytes of bf16 and fp32
# of a weight, forward and backward: its code is read, and the weight written
DEQUANTIZE_BYTES = {None: 0.0, QuantizeFrozen.int8: 2 * (1 + HALF), QuantizeFrozen.nf4: 2 * (0.5 + HALF)}


@dataclass(frozen=True)
class Software:
    """What an implementation moves, apart from its products.

    elementwise_passes: reads and writes of `[tokens, hidden]` in a block, forward and backward: norm, rotary, GELU,
    residual. branch_collectives: pairs of all-gather and reduce-scatter in a block's forward pass under tensor
    parallelism. hidden_collectives: of the four of a pair, forward and backward, those beside which something is
    computed. accumulation_bytes: moved for each weight that is trained to add a micro-batch's gradient to the fp32 sum,
    beside the product that computes it; dequantize_bytes: for each frozen one to dequantize it; fp8_bytes: for each one
    in a micro-batch to cast it to fp8. logit_bytes: moved for each logit, forward and backward.
    interleaving: of the pipeline's schedule, which divides its bubble.
    product_share: of `matmul_efficiency` that its libraries' products reach.
    stored_scores: attention writes its scores to memory. finetune: where it trains adapters only, what they take is
    left out, and the weights, `frozen`, have no gradients.
    """

    elementwise_passes: float
    branch_collectives: int = 1
    hidden_collectives: int = 0
    accumulation_bytes: float = 20
    dequantize_bytes: float = 0
    fp8_bytes: float = 0
    logit_bytes: float = 16
    interleaving: int = 1
    product_share: float = 1.0
    stored_scores: bool = False
    finetune: FinetuneConfig | None = None

    @property
    def frozen(self) -> bool:
        """Whether the weights are not trained."""
        return self.finetune is not None and is_lora(self.finetune)


EAGER, COMPILED, TRITON = 110.0, 65.0, 41.0  # passes of a CodeGen block: torch's operations, inductor's, Triton's
IN_THE_PRODUCT = 8  # bytes moved for each weight where the product adds to the fp32 sum: it is read and written
EDGE = 128  # inner dimension at which a product reaches half of `matmul_efficiency`
FP8_EDGE = 320  # the same in fp8, which doubles the rate: 1.69 and 1.84 times bf16's at 1024 and 2560, measured
FP8_PASSES = 42  # of `[tokens, hidden]` to cast operands: 14 matrices read twice and written twice in half the bytes
FP8_WEIGHT_BYTES = 10  # moved for each weight to cast it, in forward and again in backward
FP8_ONCE_BYTES = 6  # the same, to cast it both ways at once
SCORE_BYTES = 24  # moved for each score that attention stores, forward and backward
ADAMW_BYTES = 40  # moved for each weight in the optimizer step: weight, gradient and moments, norm and clipping
ZERO3_HIDDEN = 0.8  # share of the computing time in which ZeRO-3's collectives go on; a tenth is never hidden
ZERO1_HIDDEN = 0.8  # share of one micro-batch's computing time in which ZeRO-1's collectives go on
ZERO2_HIDDEN = 0.7  # share of ZeRO-2's reduction that runs beside the backward pass


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step by part, on the slowest pipeline stage; MFU as `model.flops` counts."""

    matmul: float
    attention: float
    elementwise: float
    recompute: float
    tensor_parallel: float
    pipeline_bubble: float
    data_parallel: float
    optimizer: float
    mfu: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return float(sum(asdict(self).values())) - self.mfu


def own_software(settings: Settings, count: int) -> Software:
    """What this stack moves with the kernels and the layout of `settings`, `count` micro-batches a step."""
    layout, kernels, frozen = settings.layout, settings.kernels, is_lora(settings.finetune)
    passes, accumulation = (COMPILED if kernels.compile else EAGER), Software.accumulation_bytes
    fp8_bytes = FP8_WEIGHT_BYTES if layout.precision is Precision.fp8 else 0.0
    if kernels.branches is not FusedForm.torch:
        passes = TRITON
        if layout.zero_stage == 1 and layout.precision is not Precision.fp8:
            accumulation = IN_THE_PRODUCT
        if layout.zero_stage == 1 and layout.keep_fp8_weights and fp8_bytes:
            fp8_bytes = FP8_ONCE_BYTES / count
    return Software(
        passes,
        hidden_collectives=1 if layout.tensor_parallel_overlap else 0,
        accumulation_bytes=0 if frozen else accumulation,
        dequantize_bytes=DEQUANTIZE_BYTES[settings.finetune.quantize] if frozen else 0,
        fp8_bytes=fp8_bytes,
        finetune=settings.finetune,
    )


def predict(settings: Settings, size: int) -> StepTime:
    """One optimizer step of the first training stage of `settings` on `size` GPUs of `settings.cluster.gpu`."""
    batch = next(iter(settings.stages.values())).global_batch_size
    count = gradient_accumulation_steps(settings, batch, size)
    replicas = data_parallel_size(settings, size)
    software = own_software(settings, count)
    in_node = gpus_of_node(settings.cluster, size)
    return step_time(settings.model, settings.layout, settings.cluster.gpu, in_node, count, replicas, software)


def step_time(
    model: ModelConfig,
    layout: LayoutConfig,
    gpu: GpuConfig,
    in_node: int,
    count: int,
    replicas: int,
    software: Software,
) -> StepTime:
    """One optimizer step of `count` micro-batches on each of `replicas` model replicas, on nodes of `in_node` GPUs."""
    tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
    tokens = layout.micro_batch_size * model.context_length
    block = block_seconds(model, layout, gpu, in_node, software)
    head = head_seconds(model, layout, gpu, software)
    costs = [0.0, *[sum(block.values())] * model.n_layer, sum(head.values())]
    bounds = pipeline_bounds(costs, pp)
    first, end = max(pairwise(bounds), key=lambda cut: sum(costs[cut[0] : cut[1]]))
    blocks, heads = min(end, model.n_layer + 1) - max(first, 1), end // (model.n_layer + 2)
    parts = {name: count * (blocks * block[name] + heads * head.get(name, 0.0)) for name in block}
    if pp > 1:
        boundary = 2 * HALF * tokens * model.n_embd / tp / (gpu.network_gb_per_second * 1e9)
        parts["bubble"] = pipeline_bubble(pp, count, software.interleaving) * sum(parts.values()) + count * boundary
    weights = (12 * blocks * model.n_embd**2 + (heads + (first == 0)) * model.vocab_size * model.n_embd) / tp
    weights *= not software.frozen
    data = data_parallel_seconds(weights, layout, gpu, in_node, count, replicas, sum(parts.values()))
    own = weights / (replicas if layout.zero_stage else 1)
    optimizer = own * ADAMW_BYTES / _memory_rate(gpu)
    seconds = sum(parts.values()) + data + optimizer
    work = flops_per_token(model, software.finetune) * tokens * count / (tp * pp)
    return StepTime(
        matmul=parts["matmul"],
        attention=parts["attention"],
        elementwise=parts["elementwise"],
        recompute=parts["recompute"],
        tensor_parallel=parts["tensor_parallel"],
        pipeline_bubble=parts.get("bubble", 0.0),
        data_parallel=data,
        optimizer=optimizer,
        mfu=work / seconds / (gpu.peak_tflops * 1e12),
    )


def block_seconds(
    model: ModelConfig, layout: LayoutConfig, gpu: GpuConfig, in_node: int, software: Software
) -> dict[str, float]:
    """Seconds of one micro-batch through one block, forward and backward, by part."""
    d, seq, tp = model.n_embd, model.context_length, layout.tensor_parallel_size
    tokens = layout.micro_batch_size * seq
    product = _product_rate(gpu, d) * software.product_share
    fp8 = layout.precision is Precision.fp8
    rate = 2 * _product_rate(gpu, d, FP8_EDGE) if fp8 else product
    matmul = (4 if software.frozen else 6) * 12 * d * d * tokens / tp / rate
    scores = 4 * d * seq * tokens / tp  # operations of the forward pass with the whole mask
    if software.stored_scores:
        attention = 3 * scores / product + model.n_head * seq * tokens / tp * SCORE_BYTES / _memory_rate(gpu)
    else:  # half of the mask; the backward pass computes the scores again
        attention = 3.5 * scores / 2 / (gpu.peak_tflops * 1e12 * gpu.attention_efficiency)
    passes = (software.elementwise_passes + FP8_PASSES * fp8) * HALF * tokens * d / tp
    weight_bytes = (software.accumulation_bytes + software.dequantize_bytes + software.fp8_bytes) * 12 * d * d / tp
    elementwise = (passes + weight_bytes) / _memory_rate(gpu)
    collectives = 0.0
    if tp > 1:
        moved = HALF * tokens * d * (tp - 1) / tp / _bandwidth(gpu, tp, in_node)
        collectives = software.branch_collectives * (4 - software.hidden_collectives) * moved
    again = {
        Recompute.none: 0.0,
        Recompute.selective: attention / 3.5 + elementwise / 6,
        Recompute.full: matmul / 3 + attention / 3.5 + elementwise / 3 + collectives / 2,
    }[layout.recompute]
    return {
        "matmul": matmul,
        "attention": attention,
        "elementwise": elementwise,
        "recompute": again,
        "tensor_parallel": collectives,
    }


def head_seconds(model: ModelConfig, layout: LayoutConfig, gpu: GpuConfig, software: Software) -> dict[str, float]:
    """Seconds of one micro-batch through the head and the loss, forward and backward, by part."""
    tokens = layout.micro_batch_size * model.context_length
    logits = tokens * model.vocab_size / layout.tensor_parallel_size
    product = _product_rate(gpu, model.n_embd) * software.product_share
    return {
        "matmul": (4 if software.frozen else 6) * model.n_embd * logits / product,
        "elementwise": software.logit_bytes * logits / _memory_rate(gpu),
    }


def data_parallel_seconds(
    weights: float,
    layout: LayoutConfig,
    gpu: GpuConfig,
    in_node: int,
    count: int,
    replicas: int,
    computing: float,
) -> float:
    """Seconds that the replicas' collectives add to a step. weights: of one process; computing: its seconds."""
    if replicas == 1:
        return 0.0
    bandwidth = _bandwidth(gpu, replicas, max(1, in_node // layout.tensor_parallel_size))
    once = weights * (replicas - 1) / replicas / bandwidth  # seconds a byte of each weight
    wire = HALF if layout.reduce_dtype is Precision.bf16 else FULL
    if layout.zero_stage == 3:  # gathered twice and reduced once for each micro-batch
        near, total = layout.zero.hpz_partition_size, 3 * HALF * once * count
        if near > 1:  # all gathers but a step's first are among neighbours
            nearby = weights * (near - 1) / near / (gpu.node_gb_per_second * 1e9)
            total += HALF * (2 * count - 1) * (nearby - once)
        return max(0.1 * total, total - ZERO3_HIDDEN * computing)
    if layout.zero_stage == 2:  # reduced for each micro-batch, gathered once
        return (1 - ZERO2_HIDDEN) * 2 * wire * once * count + HALF * once
    if layout.zero_stage == 0:
        return 2 * wire * once
    total = (wire + HALF) * once  # reduced in the last micro-batch's backward pass, gathered in the next forward pass
    return max(0.1 * total, total - ZERO1_HIDDEN * computing / count)


def _bandwidth(gpu: GpuConfig, members: int, in_node: int) -> float:
    """Bytes a second of a collective of `members`, of which `in_node` share a node.

    A ring enters and leaves a node once, and there are as many rings as members in the node: together they use the
    network adapters of all of them.
    """
    across = min(gpu.node_gb_per_second, in_node * gpu.network_gb_per_second)
    return (gpu.node_gb_per_second if members <= in_node else across) * 1e9


def _product_rate(gpu: GpuConfig, inner: int, edge: int = EDGE) -> float:
    """Operations a second of products whose inner dimension is `inner`: short ones spend more time on their edges."""
    return gpu.peak_tflops * 1e12 * gpu.matmul_efficiency * inner / (inner + edge)


def _memory_rate(gpu: GpuConfig) -> float:
    return gpu.memory_gb_per_second * 1e9 * gpu.memory_efficiency
