"""The live engine has what the settings say: nothing is lost between them (GPT-NeoX lost its clipping this way)."""

import json
from dataclasses import asdict, replace
from unittest.mock import patch

import pytest
import torch

from conf.choices import Precision
from conf.compose import compose_settings
from conf.errors import ConfigError
from tests.parity.cases import BATCH, settings_of
from tests.worlds import Worlds, mesh_of

CASES = [(stage, "fp32") for stage in range(4)] + [(stage, "bf16") for stage in (1, 2, 3)]
WORDS = ["optimizer.beta1=0.8", "optimizer.beta2=0.95", "optimizer.epsilon=1e-7", "optimizer.weight_decay=0.3"]


def ask(overrides: list[str]) -> dict:
    """What the live engine answers."""
    from tests.parity.cases import engine_of

    engine = engine_of(settings_of(overrides), mesh_of())
    live = engine.deepspeed
    groups = live.optimizer.param_groups
    answers = {
        "clipping": live.gradient_clipping(),
        "stage": int(live.zero_optimization_stage()),
        "bf16": live.bfloat16_enabled(),
        "fp16": live.fp16_enabled(),
        "micro": live.train_micro_batch_size_per_gpu(),
        "batch": live.train_batch_size(),
        "accumulation": live.gradient_accumulation_steps(),
        "betas": {tuple(group["betas"]) for group in groups},
        "epsilon": {group["eps"] for group in groups},
        "decay": sorted({group["weight_decay"] for group in groups}),
        "weights": {str(p.dtype) for p in live.module.parameters()},
        "accumulates_in": str(live.get_data_types()[1]),
        "communicates_in": str(live.communication_data_type),
    }
    engine.destroy()
    return answers


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_the_live_engine_has_the_settings(stage: int, precision: str, worlds: Worlds) -> None:
    from tests.parallel import test_zero

    words = [*WORDS, f"layout.zero_stage={stage}", f"layout.precision={precision}", "optimizer.gradient_clipping=0.7"]
    (answers,) = worlds(1).run(test_zero.ask, words)
    assert answers == {
        "clipping": 0.7,
        "stage": stage,
        "bf16": precision == "bf16",
        "fp16": False,
        "micro": 2,
        "batch": BATCH,
        "accumulation": BATCH // 2,
        "betas": {(0.8, 0.95)},
        "epsilon": {1e-7},
        "decay": [0.0, 0.3],
        "weights": {"torch.bfloat16" if precision == "bf16" else "torch.float32"},
        "accumulates_in": "torch.float32",
        "communicates_in": "torch.float32",
    }


def drift(overrides: list[str]) -> float:
    """How far the gradient norm of 16 equal micro-batches, summed and averaged, is from that of one; relative."""
    from tests.parity.cases import batch, deepspeed_config, engine_of

    settings, norms = settings_of(["layout.micro_batch_size=1", *overrides]), []
    row = batch(0, settings)[:1]
    layout = settings.layout
    mesh = mesh_of(layout.tensor_parallel_size, layout.pipeline_parallel_size)
    for count in (1, 16):
        with patch("tests.parity.cases.deepspeed_config", lambda s, _, *rest, n=count: deepspeed_config(s, n, *rest)):
            engine = engine_of(settings, mesh)
        engine.set_lr(0.0)
        norms.append(engine.train_batch(iter([(row[:, :-1], row[:, 1:])] * count)).gradient_norm)
        assert engine.accumulation_steps == count
        engine.destroy()
    return abs(norms[1] / norms[0] - 1)


ACCUMULATORS = [  # of gradients: (processes, words)
    *((1, f"layout.zero_stage={stage}") for stage in (1, 2, 3)),
    (2, "layout.zero_stage=1 layout.pipeline_parallel_size=2"),
    *((1, f"layout.zero_stage={stage} layout.offload=optimizer") for stage in (1, 2, 3)),
]


@pytest.mark.parametrize(("processes", "words"), ACCUMULATORS)
def test_bf16_gradients_add_up_in_fp32(processes: int, words: str, worlds: Worlds) -> None:
    """Added up in bf16, the norm of 16 equal random gradients is 6e-5 off."""
    from tests.parallel import test_zero

    for error in worlds(processes).run(test_zero.drift, [*words.split(), "layout.precision=bf16"]):
        assert error < 1e-6


def refused() -> str:
    """What DeepSpeed says to settings that conf/check.py would not let through."""
    from tests.parity.cases import engine_of

    settings = settings_of(["layout.zero_stage=0"])
    half = replace(settings, layout=replace(settings.layout, precision=Precision.bf16))
    with pytest.raises(NotImplementedError) as caught:
        engine_of(half, mesh_of())
    return str(caught.value)


def test_deepspeed_cannot_add_up_bf16_in_fp32_without_zero(worlds: Worlds) -> None:
    """Or the refusal in conf/check.py could go."""
    from tests.parallel import test_zero

    with pytest.raises(ConfigError, match=r"zero_stage=0 does not work with layout\.precision=bf16"):
        compose_settings(["layout.zero_stage=0", "layout.precision=bf16"])
    (said,) = worlds(1).run(test_zero.refused)
    assert "unsupported mix" in said


OFFLOADS = [(0, "none"), (1, "none"), (2, "optimizer"), (3, "none"), (3, "optimizer"), (3, "parameters")]


FEATURES = {  # sections of DeepSpeed's that switch on what this stack does not use
    *("aio", "amp", "autotuning", "comet", "comms_logger", "compile", "compression_training", "csv_monitor"),
    *("curriculum_learning", "data_efficiency", "datastates_ckpt", "eigenvalue", "elasticity", "expert_parallel"),
    *("flops_profiler", "graph_harvesting", "hybrid_engine", "log_level", "nebula", "optimizer"),
    *("progressive_layer_drop", "quantize_training", "scheduler", "sparse_attention", "sparse_gradients"),
    *("tensor_parallel", "tensorboard", "timers", "use_data_before_expert_parallelism", "vocabulary_size", "wandb"),
    "weight_quantization",
}


class ReadKeys(dict):
    """A configuration that records the keys which are looked up in it."""

    def __init__(self, values: dict) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key: str, default: object = None) -> object:
        self.read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)


@pytest.mark.parametrize(("stage", "offload"), OFFLOADS)
def test_no_value_is_left_to_a_default_of_deepspeed(stage: int, offload: str) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig  # type: ignore[import-untyped]
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from parallel.zero import deepspeed_config

    settings = settings_of([f"layout.zero_stage={stage}", f"layout.offload={offload}"])
    config = deepspeed_config(settings, BATCH, 1, settings.layout.precision)
    recorded = ReadKeys(config)
    DeepSpeedConfig(recorded)
    assert recorded.read - config.keys() <= FEATURES
    for section, model in (
        ("bf16", DeepSpeedBF16Config),
        ("fp16", DeepSpeedFP16Config),
        ("zero_optimization", DeepSpeedZeroConfig),
    ):
        fields = {
            field.alias or name
            for name, field in model.model_fields.items()
            if not (field.json_schema_extra or {}).get("deprecated")
        }
        assert fields - {"leaf_module"} == config[section].keys(), section  # leaf_module: module classes, not JSON


def test_the_sizes_of_the_layout_reach_deepspeed() -> None:
    from parallel.zero import deepspeed_config

    settings = settings_of([])
    layout = settings.layout
    zero = replace(layout.zero, **{name: 1000 + 2 * n for n, name in enumerate(asdict(layout.zero))})
    scale = replace(layout.loss_scale, **{name: 2000 + 2 * n for n, name in enumerate(asdict(layout.loss_scale))})
    changed = replace(settings, layout=replace(layout, zero=zero, loss_scale=scale))
    before, after = (deepspeed_config(s, BATCH, 2, layout.precision) for s in (settings, changed))
    for section, first, last in (("zero_optimization", 1000, 1014), ("fp16", 2000, 2006)):
        assert [v for k, v in after[section].items() if before[section][k] != v] != []
        assert {v for k, v in after[section].items() if before[section][k] != v} == {*range(first, last + 1, 2)}


def gathered_together(overrides: list[str]) -> int:
    """The size of a live engine's buckets of weights."""
    from tests.parity.cases import engine_of

    engine = engine_of(settings_of(overrides), mesh_of())
    size: int = engine.deepspeed.optimizer.allgather_bucket_size
    engine.destroy()
    return size


def test_an_odd_size_of_the_buckets_of_weights_is_made_even(worlds: Worlds) -> None:
    """Or an assertion of DeepSpeed's would end the run."""
    from tests.parallel import test_zero

    for stage in (1, 2):
        words = [f"layout.zero_stage={stage}", "layout.zero.allgather_bucket_size=4001"]
        assert worlds(1).run(test_zero.gathered_together, words) == [4002]


def gradients(overrides: list[str], rows: list[int]) -> dict:
    """The gradient of sequence `rows[dp_rank]`, averaged over the replicas; a tenth of it is AdamW's first moment."""
    from tests.parity.cases import batch, deepspeed_config, engine_of

    words = ["layout.micro_batch_size=1", "layout.precision=bf16", "optimizer.gradient_clipping=0.0", *overrides]
    settings, mesh = settings_of(words), mesh_of()
    with patch("tests.parity.cases.deepspeed_config", lambda s, _, *rest: deepspeed_config(s, len(rows), *rest)):
        engine = engine_of(settings, mesh)
    engine.set_lr(0.0)
    row = batch(0, settings)[rows[mesh.dp_rank]][None]
    engine.train_batch(iter([(row[:, :-1], row[:, 1:])]))
    result = {name: 10 * value for name, value in engine.full_state("exp_avg") if value is not None}
    engine.destroy()
    return result


def test_bf16_gradients_are_averaged_over_three_replicas_in_fp32(worlds: Worlds) -> None:
    """Divided by three in bf16, as ZeRO-2 did, each is up to 2^-9 off."""
    from tests.parallel import test_zero

    for stage in (
        1,
        2,
        3,
    ):  # a product of ZeRO-1 adds to the fp32 gradient, those of the others are rounded to bf16 first
        words = [f"layout.zero_stage={stage}"]
        alone = [worlds(1).run(test_zero.gradients, words, [row])[0] for row in range(3)]
        found: dict = {}
        for part in worlds(3).run(test_zero.gradients, words, [0, 1, 2]):
            found |= part
        assert found.keys() == alone[0].keys()
        for name, value in found.items():
            expected = sum(each[name] for each in alone) / 3
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7, msg=f"ZeRO-{stage}, {name}")


@pytest.mark.parametrize(("stage", "offload"), OFFLOADS)
def test_the_written_configuration_is_plain_json(stage: int, offload: str) -> None:
    from parallel.zero import deepspeed_config

    settings = settings_of([f"layout.zero_stage={stage}", f"layout.offload={offload}"])
    config = deepspeed_config(settings, BATCH, 2, settings.layout.precision)
    assert json.loads(json.dumps(config)) == config
    zero = config["zero_optimization"]
    assert zero["stage"] == stage
    assert (zero["offload_optimizer"] is None) == (offload == "none")
    assert (zero["offload_param"] is None) == (offload != "parameters")


def most_bytes(overrides: list[str]) -> int:
    """The most bytes of tensors at one time while an engine is built."""
    from model.init import init_parameter
    from parallel.memory import LiveBytes
    from tests.parity.cases import engine_of

    settings = settings_of([*overrides, "layout.precision=bf16", "layout.zero.reduce_bucket_size=1000"])
    settings = replace(settings, model=replace(settings.model, n_layer=16))
    init_parameter("0.tokens.weight", (1, 1), settings.model, seed=1)  # makes its table, 256 KiB whatever the model is
    with LiveBytes(()) as live:
        engine = engine_of(settings, mesh_of())
    engine.destroy()
    return live.peak


def test_a_model_larger_than_one_device_starts_under_zero_3(worlds: Worlds) -> None:
    """What a process needs to build the model falls as 1 / processes: no process ever holds the whole model."""
    from tests.parallel import test_zero

    words = ["layout.zero_stage=3", "layout.zero.param_persistence_threshold=1"]
    one, two, four = (max(worlds(size).run(test_zero.most_bytes, words)) for size in (1, 2, 4))
    assert two == pytest.approx(one / 2, rel=0.05)
    assert four == pytest.approx(one / 4, rel=0.05)
