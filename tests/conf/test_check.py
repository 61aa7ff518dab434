"""Every refusal names the setting and a value that works."""

import ast
import functools
import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from conf.check import check
from conf.compose import compose_config, compose_settings, typed
from conf.errors import ConfigError

CHECK = Path(__file__).parents[2] / "conf" / "check.py"

TP2, SP = "layout.tensor_parallel_size=2", "layout.sequence_parallel=true"

# words, what is said, what may be written instead
REFUSED: list[tuple[str, str, str]] = [
    *(
        (f"model.{name}=0", f"model.{name}=0 must be at least 1", f"model.{name}={value}")
        for name, value in (("n_layer", 1), ("n_embd", 128), ("n_head", 1), ("vocab_size", 64))
    ),
    ("model.rotary_dim=0", "model.rotary_dim=0 must be at least 1", "model.rotary_dim=2"),
    ("model.context_length=0", "model.context_length=0 must be at least 1", "model.context_length=65"),
    ("model.n_head=3", "model.n_head=3 does not divide model.n_embd=128; use 1, 2, 4", "model.n_head=4"),
    ("model.rotary_dim=15", "model.rotary_dim=15 must be even and at most head_dim=32", "model.rotary_dim=14"),
    ("model.rotary_dim=34", "model.rotary_dim=34 must be even and at most head_dim=32", "model.rotary_dim=32"),
    (
        "model.n_embd=36 model.rotary_dim=4",
        "model.n_head=4 makes head_dim=9, which must be even",
        "model.n_embd=36 model.rotary_dim=4 model.n_head=2",
    ),
    ("model.dropout=1.0", "model.dropout=1.0 must be at least 0 and below 1", "model.dropout=0.5"),
    ("model.dropout=-0.1", "model.dropout=-0.1 must be at least 0", "model.dropout=0"),
    ("model.context_length=64", "evaluation.sample_tokens=64 leaves no room", "evaluation.sample_tokens=8"),
    ("stage=[]", "no stage is selected; say for example stage=[nl,multi,mono]", "stage=[nl,multi,mono]"),
    ("stages.nl.corpus=pile", "corpus=pile is not among data.corpora (nl, multi, mono)", "stages.nl.corpus=multi"),
    (
        "stages.mono.init_from=/nowhere",
        "/nowhere is no run, stage, imported or Hugging Face folder",
        "stages.mono.init_from=owner/name",
    ),
    ("stages.nl.patience=0", "stages.nl.patience=0 must be more than 0", "stages.nl.patience=1"),
    (
        "stages.nl.steps=0",
        "stages.nl.steps=0 must be at least 1",
        "stages.nl.steps=1 stages.nl.warmup_steps=0 stages.nl.anneal_steps=1",
    ),
    ("stages.nl.warmup_steps=-1", "stages.nl.warmup_steps=-1 must not", "stages.nl.warmup_steps=0"),
    ("stages.nl.anneal_steps=-1", "stages.nl.anneal_steps=-1 must not", "stages.nl.anneal_steps=0"),
    ("stages.nl.steps=5", "warmup_steps=10 and anneal_steps=110 are more than its steps=5", "stages.nl.steps=120"),
    *(
        (f"stages.nl.{name}={value}", f"stages.nl.{name}={value} must be", f"stages.nl.{name}={instead}")
        for name, value, instead in (
            ("tokens", "-1.0", 1e6),
            ("epochs", "0.0", 0.5),
            ("warmup_ratio", 1.5, 0.1),
            ("anneal_ratio", -0.5, 0.9),
        )
    ),
    (
        "stages.nl.peak_learning_rate=0",
        "stages.nl: peak_learning_rate must be positive",
        "stages.nl.peak_learning_rate=0.1",
    ),
    ("stages.nl.end_learning_rate=-1", "end_learning_rate not negative", "stages.nl.end_learning_rate=0"),
    ("stages.nl.end_learning_rate=1", "is above its peak_learning_rate=0.004", "stages.nl.end_learning_rate=0.004"),
    *(
        (f"layout.{name}=0", f"layout.{name}=0 must be at least 1", f"layout.{name}=1")
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "loss_chunk_tokens")
    ),
    ("layout.micro_batch_size=-1", "micro_batch_size=-1 must be at least 1, or auto", "layout.micro_batch_size=0"),
    (
        "layout.tensor_parallel_size=3",
        "layout.tensor_parallel_size=3 does not divide model.n_head=4; use 1, 2 or 4",
        "layout.tensor_parallel_size=4",
    ),
    ("cluster.nodes=0", "cluster.nodes=0 must be at least 1", "cluster.nodes=1"),
    ("cluster.processes_per_node=-1", "cluster.processes_per_node=-1 must be", "cluster.processes_per_node=1"),
    ("cluster.cpu_processes=0", "cluster.cpu_processes=0 must be at least 1", "cluster.cpu_processes=1"),
    *(
        (f"cluster.{name}=0", f"cluster.{name}=0.0 must be more than 0", f"cluster.{name}=0.5")
        for name in (
            "join_seconds",
            "collective_seconds",
            "lock_seconds",
            "max_clock_skew_seconds",
            "shared_folder_seconds",
        )
    ),
    ("cluster.restarts=-1", "cluster.restarts=-1 must be 0 or more", "cluster.restarts=0"),
    ("cluster.grace_seconds=-1", "cluster.grace_seconds=-1.0 must be 0 or more", "cluster.grace_seconds=0"),
    ("cluster.slurm.time=43200", "slurm.time=43200 must be as 12:00:00; in a YAML", "cluster.slurm.time=2-12:00:00"),
    ("cluster.port=65536", "cluster.port=65536 must be between 1 and 65535", "cluster.port=65535"),
    *(
        (f"{key}=0", "health.hang_seconds and health.spike_deviations must be above 0", f"{key}=3")
        for key in ("tracking.straggler_threshold", "health.hang_seconds", "health.spike_deviations")
    ),
    (
        f"model.context_length=255 {SP} {TP2}",
        "layout.tensor_parallel_size=2 does not divide model.context_length=255, which layout.sequence_parallel cuts",
        f"model.context_length=254 {SP} {TP2}",
    ),
    (
        "layout.pipeline_parallel_size=5",
        "layout.pipeline_parallel_size=5 is more than model.n_layer=4; use fewer",
        "layout.pipeline_parallel_size=4",
    ),
    ("layout.zero_stage=4", "layout.zero_stage=4 does not exist; use 0, 1, 2 or 3", "layout.zero_stage=3"),
    (
        "layout.zero_stage=2 layout.pipeline_parallel_size=2",
        "layout.zero_stage=2 does not work with pipeline_parallel_size=2",
        "layout.zero_stage=1 layout.pipeline_parallel_size=2",
    ),
    *(
        (
            f"layout.zero_stage=0 layout.precision={name}",
            f"layout.zero_stage=0 does not work with layout.precision={name}",
            f"layout.zero_stage=1 layout.precision={name}",
        )
        for name in ("bf16", "fp16", "fp8")
    ),
    (
        "layout.precision=fp8 model.n_embd=72 layout.tensor_parallel_size=2",
        "layout.precision=fp8 needs model.n_embd / layout.tensor_parallel_size=36 to be a multiple of 16, or use bf16",
        "layout.precision=fp8 model.n_embd=64 layout.tensor_parallel_size=2",
    ),
    (
        "layout.precision=fp8 layout.micro_batch_size=1 model.context_length=250",
        "needs layout.micro_batch_size x model.context_length=250 to be a multiple of 16",
        "layout.precision=fp8 layout.micro_batch_size=8 model.context_length=250",
    ),
    ("layout.offload=parameters", "needs zero_stage=3, not 1", "layout.offload=parameters layout.zero_stage=3"),
    (
        "layout.offload=optimizer layout.zero_stage=0",
        "layout.offload=optimizer needs zero_stage 1, 2 or 3, not 0",
        "layout.offload=optimizer layout.zero_stage=1",
    ),
    ("optimizer.beta1=-0.1", "optimizer.beta1=-0.1 must be at least 0 and below 1", "optimizer.beta1=0"),
    ("optimizer.beta2=1.0", "optimizer.beta2=1.0 must be at least 0 and below 1", "optimizer.beta2=0.95"),
    *(
        (f"optimizer.{name}=-1", f"optimizer.{name}=-1.0 must not be negative", f"optimizer.{name}=0")
        for name in ("weight_decay", "gradient_clipping", "z_loss")
    ),
    ("optimizer.epsilon=nan", "optimizer.epsilon=nan must be a finite number", "optimizer.epsilon=1e-8"),
    ("optimizer.epsilon=0", "optimizer.epsilon=0.0 must be positive", "optimizer.epsilon=1e-8"),
    ("model.layer_norm_epsilon=0", "model.layer_norm_epsilon=0.0 must be positive", "model.layer_norm_epsilon=1e-5"),
    ("cluster.nodes=2", "cluster.nodes=2 needs cluster=slurm or cluster=hostfile", "cluster=slurm cluster.nodes=2"),
    ("evaluation.sample_top_p=0", "evaluation.sample_top_p=0.0 must be above 0", "evaluation.sample_top_p=1"),
    (
        "evaluation.sample_temperature=-1",
        "evaluation.sample_temperature=-1.0 must be at least 0",
        "evaluation.sample_temperature=0",
    ),
    ("evaluation.sample_tokens=0", "evaluation.sample_tokens=0 must be at least 1", "evaluation.sample_tokens=1"),
    ("run.seed=-1", "run.seed=-1 must be at least 0 and below 2147483648", "run.seed=0"),
    (
        "run.name=a/b",
        "run.name='a/b' must be the name of a folder, letters, digits and ._+=-; it has '/'",
        "run.name=ab",
    ),
    ("run.group=a/b run.name=ab", "run.group='a/b' must be the name of a folder", "run.group=ab run.name=ab"),
    ("run.until=zork", "run.until=zork is not among the stages of this run (nl, multi, mono)", "run.until=nl"),
    (
        "stages.nl.init_from=owner/name stages.nl.handover=full",
        "stages.nl.handover=full needs a run's checkpoint; init_from=owner/name has weights only",
        "stages.nl.init_from=owner/name stages.nl.handover=weights",
    ),
    (
        "layout.reduce_dtype=fp16",
        "layout.reduce_dtype=fp16 does not work; use fp32 or bf16",
        "layout.reduce_dtype=bf16",
    ),
    ("layout.zero.hpz_partition_size=2", "hpz_partition_size=2 needs zero_stage=3", "layout.zero.hpz_partition_size=1"),
    ("run.keep_every=0", "run.keep_every=0 must be at least 1", "run.keep_every=5"),
    (
        "cluster.slurm.environment.HF_TOKEN=abc",
        "cluster.slurm.environment.HF_TOKEN would be read by others; export it in the shell that submits",
        "cluster.slurm.environment.HF_HOME=abc",
    ),
    *((f"{key}=-1", f"{key}=-1 must be at least 0", f"{key}=0") for key in ("health.rewinds", "profile.skip")),
    ("run.resume=maybe", "run.resume=maybe is not known; use auto or never", "run.resume=never"),
    *(
        (f"{key}=0", f"{key}=0 must be at least 1", f"{key}=1")
        for key in (
            *("health.bad_steps", "health.compare_every", "run.save_every", "run.keep_checkpoints"),
            *("evaluation.every", "evaluation.batch_size", "tracking.log_every"),
        )
    ),
]


composed = functools.cache(lambda *words: compose_config(list(words)))  # a third of a second each


def accept(words: str, processes: int | None = None) -> None:
    """Check the settings of `words`: groups are composed, values are set in what they make."""
    groups = [word for word in words.split() if "." not in word.partition("=")[0]]
    config = composed(*groups).copy()
    for word in words.split():
        if word not in groups:
            key, value = word.split("=", 1)
            OmegaConf.update(config, key, yaml.safe_load(value), force_add=True)
    check(typed(config), processes)


@functools.cache
def refusal(words: str, processes: int | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        accept(words, processes)
    return str(caught.value)


@pytest.mark.parametrize(("words", "said", "instead"), REFUSED, ids=[words for words, _, _ in REFUSED])
def test_refused_in_one_line_that_says_what_works(words: str, said: str, instead: str) -> None:
    assert said in refusal(words)
    assert "\n" not in refusal(words)
    accept(instead)


NUMBERS = ["optimizer.gradient_clipping", "optimizer.epsilon", "optimizer.z_loss", "stages.nl.peak_learning_rate"]


@pytest.mark.parametrize("key", NUMBERS)
def test_not_a_number_is_refused(key: str) -> None:
    """Or clipping is off, or nothing is learnt, without a word."""
    assert key.rpartition(".")[2] in refusal(f"{key}=nan")


@pytest.mark.parametrize(
    "words", ["layout.tensor_parallel_size=3", f"{TP2} model.vocab_size=2049", f"{TP2} {SP} model.context_length=255"]
)
def test_every_tensor_parallel_size_that_is_offered_works(words: str) -> None:
    offered = re.findall(r"\d+", refusal(words).partition("; use ")[2])
    assert offered
    for size in offered:
        accept(f"{words} layout.tensor_parallel_size={size}")


BATCHES = "stages.nl.global_batch_size=18 stages.multi.global_batch_size=18 stages.mono.global_batch_size=18"

# words, processes, what is said, what may be written instead, on how many processes
PROCESSES = [
    (
        "layout.micro_batch_size=3",
        2,
        "stages.nl.global_batch_size=16 is not a multiple of micro_batch_size=3 x 2 replicas; use 18",
        f"layout.micro_batch_size=3 {BATCHES}",
        2,
    ),
    ("stages.mono.global_batch_size=0", 1, "stages.mono.global_batch_size=0 is not", "", 1),
    ("", 3, "4 x 3 replicas; use 12, or another micro_batch_size or number of processes", "", 4),
    (TP2, 3, "3 processes cannot be cut into tensor_parallel_size=2 x pipeline_parallel_size=1", TP2, 2),
    (
        "layout=3d_2x2x2",
        4,
        "layout=3d_2x2x2 is for 8 processes, and there are 4; set layout.data_parallel_size=1",
        "layout=3d_2x2x2 layout.data_parallel_size=1",
        4,
    ),
]


@pytest.mark.parametrize(("words", "processes", "said", "instead", "others"), PROCESSES)
def test_processes_that_a_layout_cannot_use_are_refused(
    words: str, processes: int, said: str, instead: str, others: int
) -> None:
    assert said in refusal(words, processes)
    assert "\n" not in refusal(words, processes)
    accept(instead, others)


def test_composing_checks_and_every_refusal_has_a_case_above() -> None:
    with pytest.raises(ConfigError, match="3 processes cannot be cut"):
        compose_settings([TP2], 3)
    said = [refusal(words) for words in ("stages.nl.init_from=/", *(words for words, _, _ in REFUSED))]
    said += [refusal(words, size) for words, size, *_ in PROCESSES]
    refusals = [node.value for node in ast.walk(ast.parse(CHECK.read_text())) if isinstance(node, ast.Yield)]
    for message in filter(None, refusals):
        if not isinstance(message, ast.Name):
            pieces = [piece.value for piece in ast.walk(message) if isinstance(piece, ast.Constant)]
            longest = max((piece for piece in pieces if isinstance(piece, str)), key=len)
            assert any(longest in line for line in said), longest
