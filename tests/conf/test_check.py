"""Every refusal names the setting and a value that works."""

import pytest

from conf.check import ConfigError
from conf.compose import compose_settings

REFUSED = [
    (["model.n_head=3"], "model.n_head=3 does not divide model.n_embd=128; use 1, 2, 4", ["model.n_head=8"]),
    (["model.rotary_dim=33"], "must be even and at most head_dim=32", ["model.rotary_dim=32"]),
    (["model.n_layer=0"], "model.n_layer=0 must be at least 1", ["model.n_layer=1"]),
    (["model.dropout=1.0"], "model.dropout=1.0", ["model.dropout=0.5"]),
    (["model.context_length=64"], "evaluation.sample_tokens=64 leaves no room", ["evaluation.sample_tokens=8"]),
    (["stage=[]"], "no stage is selected", ["stage=[nl]"]),
    (["stages.nl.corpus=pile"], "stages.nl.corpus=pile is not among data.corpora (nl, multi, mono)", []),
    (["stages.nl.steps=0"], "stages.nl.steps=0", ["stages.nl.steps=10"]),
    (["stages.nl.steps=5"], "warmup_steps=10 is more than its steps=5", ["stages.nl.steps=10"]),
    (["stages.nl.end_learning_rate=1"], "is above its peak_learning_rate", ["stages.nl.end_learning_rate=0"]),
    (["data.tokenizer.kind=codegen"], "data.tokenizer.kind=codegen needs data.tokenizer.path=", []),
    (["data.tokenizer.path=/nowhere"], "data.tokenizer.path=/nowhere is no folder, and names on the hub", []),
    (["stages.mono.init_from=/nowhere"], "/nowhere is no run, stage, imported or Hugging Face folder", []),
    (
        ["layout.tensor_parallel_size=3"],
        "layout.tensor_parallel_size=3 does not divide model.n_head=4; use 1, 2 or 4",
        [],
    ),
    (["layout.pipeline_parallel_size=5"], "is more than model.n_layer=4", ["layout.pipeline_parallel_size=4"]),
    (["layout.zero_stage=4"], "use 0, 1, 2 or 3", ["layout.zero_stage=3"]),
    (
        ["layout.zero_stage=2", "layout.pipeline_parallel_size=2"],
        "use zero_stage 0 or 1, or one pipeline stage",
        ["layout.zero_stage=1", "layout.pipeline_parallel_size=2"],
    ),
    (["layout.offload=parameters"], "needs zero_stage=3", ["layout.offload=parameters", "layout.zero_stage=3"]),
    (["layout.offload=optimizer", "layout.zero_stage=0"], "needs zero_stage 1, 2 or 3", ["layout.offload=optimizer"]),
    (
        ["model.context_length=255", "layout.sequence_parallel=true", "layout.tensor_parallel_size=2"],
        "needs tensor_parallel_size=2 to divide model.context_length=255",
        ["model.context_length=254", "layout.sequence_parallel=true", "layout.tensor_parallel_size=2"],
    ),
    (["optimizer.beta2=1.0"], "optimizer.beta2=1.0", ["optimizer.beta2=0.95"]),
    (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1.0 must not be negative", ["optimizer.weight_decay=0"]),
    (["data.validation_fraction=0"], "data.validation_fraction=0.0", ["data.validation_fraction=0.1"]),
    (["run.resume=maybe"], "run.resume=maybe is not known; use auto or never", ["run.resume=never"]),
    (["run.save_every=0"], "run.save_every=0 must be at least 1", ["run.save_every=1"]),
    (["tracking.log_every=0"], "tracking.log_every=0 must be at least 1", ["tracking.log_every=1"]),
]


@pytest.mark.parametrize(("words", "said", "instead"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused_in_one_line_that_says_what_works(words: list[str], said: str, instead: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    compose_settings(instead)


@pytest.mark.parametrize(
    ("words", "processes", "said"),
    [
        (
            ["layout.micro_batch_size=3"],
            2,
            "global_batch_size=16 is not a multiple of micro_batch_size=3 x 2 replicas; use 18",
        ),
        (["layout.tensor_parallel_size=2"], 3, "use a multiple of 2 processes"),
        (["layout=3d_2x2x2"], 4, "layout=3d_2x2x2 is for 8 processes, and there are 4"),
    ],
)
def test_processes_that_a_layout_cannot_use_are_refused(words: list[str], processes: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings(words, processes)
    assert said in str(caught.value)
