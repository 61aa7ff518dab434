"""Rates that were measured on GPUs, beside what `train.plan.speed` predicts for the same model, layout and GPU.

LLM Foundry: scripts/train/benchmarking/README.md, sequences of 2048, FSDP, no recomputation. Megatron-LM: Korthikanti
et al., arXiv 2205.05198, table 5, with sequence parallelism and selective recomputation. This stack:
tests/benchmarks/RESULTS.md, "Training steps on an H100".
"""

from dataclasses import dataclass, replace
from typing import Any

from conf.choices import Recompute
from conf.cluster_schema import GpuConfig
from conf.schema import LayoutConfig, ModelConfig, Settings
from train.plan import GPUS_A_NODE
from train.plan.speed import IN_THE_PRODUCT, TRITON, Software, step_time

SEQUENTIAL = 130.0  # passes of a block with two norms and two residual sums, not compiled
LLM_FOUNDRY = Software(SEQUENTIAL, branch_collectives=2, logit_bytes=24)
ON_H100 = replace(LLM_FOUNDRY, product_share=0.8)  # libraries of 2023, the H100's first year
MEGATRON = Software(SEQUENTIAL, branch_collectives=2, logit_bytes=24, stored_scores=True)
OWN = Software(TRITON, accumulation_bytes=IN_THE_PRODUCT)


PEAKS = {"A100": 312.0, "H100": 989.0}  # TFLOP/s that the rates below are shares of


@dataclass(frozen=True)
class Published:
    """One published rate. gpus: devices; micro_batches: of one replica in a step; mfu: share of the dense bf16 peak."""

    source: str
    model: str
    n_layer: int
    n_embd: int
    n_head: int
    gpu: str
    gpus: int
    micro_batch_size: int
    micro_batches: int
    mfu: float
    software: Software = LLM_FOUNDRY
    tensor: int = 1
    pipeline: int = 1


PUBLISHED = [
    Published("LLM Foundry", "350M", 24, 1024, 16, "A100", 8, 32, 2, 0.5162),
    Published("LLM Foundry", "760M", 24, 1536, 12, "A100", 8, 24, 2, 0.5685),
    Published("LLM Foundry", "1B", 24, 2048, 16, "A100", 8, 14, 4, 0.5986),
    Published("LLM Foundry", "3B", 32, 2560, 20, "A100", 8, 10, 2, 0.6211),
    Published("LLM Foundry", "7B", 32, 4096, 32, "A100", 8, 6, 2, 0.6423),
    Published("LLM Foundry", "13B", 40, 5120, 40, "A100", 8, 2, 3, 0.5957),
    Published("LLM Foundry", "760M", 24, 1536, 12, "H100", 16, 24, 1, 0.3789, ON_H100),
    Published("LLM Foundry", "1B", 24, 2048, 16, "H100", 8, 14, 1, 0.4182, ON_H100),
    Published("LLM Foundry", "3B", 32, 2560, 20, "H100", 16, 10, 3, 0.4373, ON_H100),
    Published("LLM Foundry", "7B", 32, 4096, 32, "H100", 8, 6, 1, 0.4644, ON_H100),
    Published("LLM Foundry", "13B", 40, 5120, 40, "H100", 8, 2, 1, 0.3979, ON_H100),
    Published("Megatron-LM", "22B", 48, 6144, 64, "A100", 8, 4, 1, 0.415, MEGATRON, 8),
    Published("Megatron-LM", "175B", 96, 12288, 96, "A100", 64, 1, 64, 0.514, replace(MEGATRON, interleaving=3), 8, 8),
    Published("this stack", "350M", 20, 1024, 16, "H100", 1, 8, 4, 0.469, OWN),
    Published("this stack", "2B", 32, 2560, 32, "H100", 1, 4, 8, 0.557, OWN),
]


def compare_published(settings: Settings) -> list[dict[str, Any]]:
    """The rows on GPUs with the peak of `settings.cluster.gpu`, each with the MFU that its figures predict."""
    gpu = settings.cluster.gpu
    rows = [row for row in PUBLISHED if PEAKS[row.gpu] == gpu.peak_tflops]
    return [
        {
            "source": row.source,
            "model": row.model,
            "gpus": row.gpus,
            "mfu": row.mfu,
            "predicted": predicted_mfu(row, gpu, settings.model, settings.layout),
        }
        for row in rows
    ]


def predicted_mfu(row: Published, gpu: GpuConfig, model: ModelConfig, layout: LayoutConfig) -> float:
    """What is predicted for `row` on `gpu`. model, layout: any, of which the row's values replace what it names."""
    model = replace(
        model, n_layer=row.n_layer, n_embd=row.n_embd, n_head=row.n_head, vocab_size=51200, context_length=2048
    )
    zero_stage = {"LLM Foundry": 3, "Megatron-LM": 0, "this stack": 1}[row.source]
    layout = replace(
        layout,
        tensor_parallel_size=row.tensor,
        pipeline_parallel_size=row.pipeline,
        sequence_parallel=row.tensor > 1,
        micro_batch_size=row.micro_batch_size,
        zero_stage=zero_stage,
        recompute=Recompute.selective if row.software.stored_scores else Recompute.none,
    )
    replicas = row.gpus // (row.tensor * row.pipeline)
    in_node = min(row.gpus, GPUS_A_NODE)
    return step_time(model, layout, gpu, in_node, row.micro_batches, replicas, row.software).mfu
