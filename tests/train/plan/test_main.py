"""The dry run: parameters against the formula, bytes against live engines, collectives against real worlds."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conf.schema import Settings
from model.flops import parameters
from model.quantized import QuantizedMatrix
from parallel.simulate import collectives, simulated_mesh
from parallel.tensor_parallel import shard_of
from tests.parity.cases import BATCH, engine_of, micro_batches, settings_of
from tests.worlds import Worlds, mesh_of
from train.plan.planner import PipelineStagePlan, build_pipeline_stage, on_gpu, plan

TP2, PP2, SP = "layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2", "layout.sequence_parallel=true"
BF16, LORA = "layout.precision=bf16", "finetune=lora"


def paper_settings(overrides: list[str]) -> Settings:
    """The parity suite's settings, with its batch in the stages too: a plan takes the batch from there."""
    settings = settings_of(overrides)
    stages = {name: replace(stage, global_batch_size=BATCH) for name, stage in settings.stages.items()}
    return on_gpu(replace(settings, stages=stages))


@pytest.mark.parametrize("shape", [[], [TP2], [PP2], [TP2, PP2], [TP2, SP, PP2], ["layout.pipeline_parallel_size=4"]])
def test_every_rank_together_holds_the_model(shape: list[str]) -> None:
    settings = paper_settings(shape)
    layout = settings.layout
    tensor, stages = layout.tensor_parallel_size, layout.pipeline_parallel_size
    size, total = 2 * tensor * stages, 0
    for rank in range(size):
        with simulated_mesh(rank, size, tensor, stages, layout.sequence_parallel) as mesh:
            if mesh.dp_rank:
                continue
            for layer in build_pipeline_stage(settings, mesh.pp_rank, mesh):
                for parameter in layer.parameters():
                    total += parameter.numel() if shard_of(parameter) is not None or mesh.tp.rank == 0 else 0
    assert total == parameters(settings.model)


def test_a_rank_has_the_same_place_planned_and_in_a_real_world(worlds: Worlds) -> None:
    for rank, place in enumerate(worlds(4).run(place_of, 2, 2)):
        with simulated_mesh(rank, 4, 2, 2) as mesh:
            assert (mesh.dp_rank, mesh.pp_rank, mesh.tp.rank) == place


def place_of(tp_size: int, pp_size: int) -> tuple[int, int, int]:
    """Of a process of a real world."""
    mesh = mesh_of(tp_size, pp_size)
    return mesh.dp_rank, mesh.pp_rank, mesh.tp.rank


def note_second_copies(module: nn.Module, optimizer: Any) -> list[int]:
    """To it is added, when a step of the optimizer begins, what hpz_partition_size keeps; the step drops it."""
    noted, step = [0], optimizer.step

    def count(*args: Any, **kwargs: Any) -> Any:
        copies = [getattr(parameter, "ds_secondary_tensor", None) for parameter in module.parameters()]
        noted.append(sum(copy.untyped_storage().nbytes() for copy in copies if copy is not None))
        return step(*args, **kwargs)

    optimizer.step = count
    return noted


def live(overrides: list[str]) -> dict[str, Any]:
    """Bytes that a real engine keeps, and what its second step sent."""
    settings = settings_of(overrides)
    layout = settings.layout
    mesh = mesh_of(
        layout.tensor_parallel_size,
        layout.pipeline_parallel_size,
        layout.sequence_parallel,
        layout.tensor_parallel_overlap,
        layout.regather_sequence,
    )
    engine = engine_of(settings, mesh)
    engine.set_lr(1e-3)
    module, optimizer = engine.deepspeed.module, engine.deepspeed.optimizer
    second = note_second_copies(module, optimizer)
    engine.train_batch(micro_batches(0, settings, mesh))
    with collectives() as record:
        engine.train_batch(micro_batches(1, settings, mesh))
    sent: Counter[str] = Counter()
    for collective in record:
        sent[collective.kind] += collective.bytes
    inner = getattr(optimizer, "optimizer", optimizer)
    masters = [p for group in inner.param_groups for p in group["params"]]
    masters = getattr(optimizer, "fp32_partitioned_groups_flat", masters)  # ZeRO-3 shows its own only while it steps
    held = [*module.parameters(), *(p.ds_tensor for p in module.parameters() if hasattr(p, "ds_tensor"))]
    weights = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    quantized = [matrix for matrix in module.modules() if isinstance(matrix, QuantizedMatrix)]
    result = {
        "optimizer_class": type(optimizer).__name__,
        "parameters": sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
        + sum(matrix.shape.numel() for matrix in quantized),
        "weights": sum(weights.values()) + second[-1] + sum(b.numel() * b.element_size() for b in module.buffers()),
        "masters": sum(p.numel() * p.element_size() for p in masters),
        "moments": sum(
            v.numel() * v.element_size()
            for p in masters
            for v in inner.state[p].values()
            if torch.is_tensor(v) and v.dim()
        ),
        "sent": dict(sent),
        "stage": mesh.pp_rank,
    }
    if result["optimizer_class"] == "BF16_Optimizer":
        result["gradients"] = sum(g.numel() * g.element_size() for g in optimizer.fp32_groups_gradients_flat)
    engine.destroy()
    return result


LIVE = {
    "single": (1, ["layout.zero_stage=0"]),
    "zero1": (2, []),
    "zero1 bf16": (2, [BF16]),
    "zero2 bf16": (2, [BF16, "layout.zero_stage=2"]),
    "zero3": (2, ["layout.zero_stage=3"]),
    "zero3 within pairs": (4, ["layout.zero_stage=3", "layout.zero.hpz_partition_size=2"]),
    "tp2 sp bf16": (2, [BF16, TP2, SP]),
    "pp2 bf16": (2, [BF16, PP2]),
    "lora bf16": (2, [BF16, LORA]),
    "lora zero3": (2, [LORA, "layout.zero_stage=3"]),
    "lora nf4": (2, [BF16, LORA, "finetune.quantize=nf4", "layout.zero_stage=2"]),
    "lora int8": (2, [BF16, LORA, "finetune.quantize=int8", TP2]),
}


@pytest.mark.parametrize("case", LIVE)
def test_bytes_are_those_of_a_live_engine(case: str, worlds: Worlds) -> None:
    size, overrides = LIVE[case]
    settings = paper_settings(overrides)
    stages = plan(settings, size)
    for found in worlds(size).run(live, overrides):
        stage = stages[found["stage"]]
        assert found["optimizer_class"] in (stage.states.optimizer_class, "AdamW")
        assert found["parameters"] == stage.parameters
        slack = 0.02  # padding
        assert found["weights"] == pytest.approx(stage.states.weights, rel=slack)
        own_master = 0 if stage.states.optimizer_class == "torch.optim.AdamW" else found["masters"]
        assert own_master + found["moments"] == pytest.approx(stage.states.optimizer, rel=slack)
        if "gradients" in found:
            assert found["gradients"] == pytest.approx(stage.states.gradients, rel=slack)


def sent_planned(stage: PipelineStagePlan) -> Counter[str]:
    """Bytes by kind, whichever group they go to; pipeline sends are no collectives."""
    total: Counter[str] = Counter()
    for kind, (_, size) in stage.collectives.items():
        total[kind.split()[1]] += size
    del total["send"]
    return total


@pytest.mark.parametrize("case", ["zero1", "zero1 bf16", "zero2 bf16", "tp2 sp bf16"])
def test_collectives_are_those_of_a_real_world(case: str, worlds: Worlds) -> None:
    size, overrides = LIVE[case]
    expected = sent_planned(plan(paper_settings(overrides), size)[0])
    for found in worlds(size).run(live, overrides):
        for kind in expected:
            assert found["sent"].get(kind, 0) == pytest.approx(expected[kind], rel=0.02, abs=512), (
                found["sent"],
                expected,
            )


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """The program as a person runs it."""
    root = Path(__file__).parents[3]
    return subprocess.run([sys.executable, "-m", "train.plan", *words], capture_output=True, text=True, cwd=root)


SMALL = ["model=350m", "layout.precision=bf16", "cluster.processes_per_node=8"]


def test_command_prints_tables_within_100_columns_and_the_same_as_json() -> None:
    shown = command(*SMALL, "layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2")
    assert shown.returncode == 0, shown.stderr
    assert "activations" in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 100
    written = command(*SMALL, "layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2", "--json")
    figures = json.loads(written.stdout[written.stdout.index("{") :])
    assert figures["gpus"] == 8 and figures["data_parallel_size"] == 2 and len(figures["pipeline_stages"]) == 2
    assert f"{figures['pipeline_stages'][0]['total'] / 2**30:.2f}" in shown.stdout


def test_layout_that_does_not_fit_is_refused_with_one_that_does() -> None:
    refused = command(*SMALL, "cluster.device_memory_gib=12", "layout.micro_batch_size=4")
    assert refused.returncode == 2
    line = refused.stderr.strip().splitlines()[-1]
    assert line.startswith("error: layout=data_parallel does not fit: pipeline stage 0 needs")
    words = [word for word in line.partition("that fits: ")[2].split() if word.startswith("layout.")]
    assert words
    settled = [
        word for word in ["layout.micro_batch_size=4"] if word.split("=")[0] not in {w.split("=")[0] for w in words}
    ]
    assert command(*SMALL, "cluster.device_memory_gib=12", *settled, *words).returncode == 0


def test_recomputing_keeps_less() -> None:
    saved = {
        how: plan(paper_settings([f"layout.recompute={how}"]), 1)[0].micro_batch.saved_activations
        for how in ("none", "selective", "full")
    }
    assert saved["full"] < saved["selective"] < saved["none"]


def test_gathering_the_sequence_again_keeps_less_and_sends_more() -> None:
    kept, again = (
        plan(paper_settings([TP2, SP, f"layout.regather_sequence={choice}"]), 2)[0] for choice in ("false", "true")
    )
    shape = settings_of([]).model
    rows = 2 * shape.context_length  # of a micro-batch; half of them are another rank's
    saved = shape.n_layer * rows // 2 * shape.n_embd * 2
    assert kept.micro_batch.saved_activations - again.micro_batch.saved_activations >= saved
    calls = [stage.collectives["tensor all-gather"][0] for stage in (kept, again)]
    assert calls[1] - calls[0] == shape.n_layer * BATCH // 2


def test_wrong_settings_are_one_line() -> None:
    wrong = command("model=16b", "layout.tensor_parallel_size=5")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
    wrong = command("model=16b", "gpus=512")
    assert wrong.stderr.startswith("error: stages.nl.global_batch_size=1024 is not a multiple of"), wrong.stderr
    assert wrong.stderr.endswith("; best=true looks for a layout of 512 GPUs that does\n")
