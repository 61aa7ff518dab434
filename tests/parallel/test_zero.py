"""The live engine has what the settings say: nothing is lost between them (GPT-NeoX lost its clipping this way)."""

import json
from dataclasses import replace
from unittest.mock import patch

import pytest

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
    """How far the gradient norm of 64 equal micro-batches, summed and averaged, is from that of one; relative."""
    from tests.parity.cases import batch, deepspeed_config, engine_of

    settings, norms = settings_of(["layout.micro_batch_size=1", *overrides]), []
    row = batch(0, settings)[:1]
    layout = settings.layout
    mesh = mesh_of(layout.tensor_parallel_size, layout.pipeline_parallel_size)
    for count in (1, 64):
        with patch("tests.parity.cases.deepspeed_config", lambda s, _, *rest, n=count: deepspeed_config(s, n, *rest)):
            engine = engine_of(settings, mesh)
        engine.set_lr(0.0)
        norms.append(engine.train_batch(iter([(row[:, :-1], row[:, 1:])] * count)).gradient_norm)
        assert engine.accumulation_steps == count
        engine.destroy()
    return abs(norms[1] / norms[0] - 1)


KEEPERS = [  # of gradients: (processes, words)
    *((1, f"layout.zero_stage={stage}") for stage in (1, 2, 3)),
    (2, "layout.zero_stage=1 layout.pipeline_parallel_size=2"),
    *((1, f"layout.zero_stage={stage} layout.offload=optimizer") for stage in (1, 2, 3)),
]


@pytest.mark.parametrize(("processes", "words"), KEEPERS)
def test_bf16_gradients_add_up_in_fp32(processes: int, words: str, worlds: Worlds) -> None:
    """Added up in bf16, the norm of 64 is 0.3% off."""
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


@pytest.mark.parametrize(("stage", "offload"), OFFLOADS)
def test_the_written_configuration_is_plain_json(stage: int, offload: str) -> None:
    from parallel.zero import deepspeed_config

    settings = settings_of([f"layout.zero_stage={stage}", f"layout.offload={offload}"])
    config = deepspeed_config(settings, BATCH, 2, settings.layout.precision)
    assert json.loads(json.dumps(config)) == config
    zero = config["zero_optimization"]
    assert zero["stage"] == stage
    assert zero.get("offload_optimizer", {}).get("device", "none") == ("none" if offload == "none" else "cpu")
    assert zero.get("offload_param", {}).get("device", "none") == ("cpu" if offload == "parameters" else "none")
