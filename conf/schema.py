"""The typed settings of a run. Hydra composes them, OmegaConf checks the types, `conf/check.py` checks the meaning.

Each field's meaning and unit stand as a comment beside its value in the YAML files of this folder.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from conf import choices
from conf.cluster_schema import ClusterConfig
from conf.data_schema import CorpusConfig, DataConfig, FiltersConfig, MixturePhase, TokenizerConfig

__all__ = ["ClusterConfig", "CorpusConfig", "DataConfig", "FiltersConfig", "MixturePhase", "TokenizerConfig"]


@dataclass
class ModelConfig:
    """Architecture: conf/model."""

    name: str = MISSING
    n_layer: int = MISSING
    n_embd: int = MISSING
    n_head: int = MISSING
    rotary_dim: int = MISSING
    vocab_size: int = MISSING
    context_length: int = MISSING
    layer_norm_epsilon: float = MISSING
    dropout: float = MISSING

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.n_embd // self.n_head


@dataclass
class StageConfig:
    """One stage of training: conf/stage."""

    corpus: str = MISSING
    mixture: Any = None  # corpus -> weight; a typed mapping cannot be null and take new keys on the command line
    mixture_phases: list[MixturePhase] = field(default_factory=list)
    steps: int = MISSING
    tokens: float | None = None
    epochs: float | None = None
    global_batch_size: int = MISSING
    peak_learning_rate: float = MISSING
    end_learning_rate: float = MISSING
    schedule: choices.Schedule = MISSING
    warmup_steps: int = MISSING
    warmup_ratio: float | None = None
    anneal_steps: int = MISSING
    anneal_ratio: float | None = None
    handover: choices.Handover = MISSING
    init_from: str | None = None
    patience: int | None = None


@dataclass
class RecipeConfig:
    """The values of a stage that depend on the model's size: conf/recipe."""

    global_batch_size: int = MISSING
    steps: int = MISSING
    peak_learning_rate: float = MISSING
    end_learning_rate: float = MISSING
    warmup_steps: int = MISSING
    anneal_steps: int = MISSING


@dataclass
class OptimizerConfig:
    """Optimizer and loss: conf/optimizer."""

    beta1: float = MISSING
    beta2: float = MISSING
    epsilon: float = MISSING
    weight_decay: float = MISSING
    decay: choices.Decay = MISSING
    gradient_clipping: float = MISSING
    z_loss: float = MISSING


@dataclass
class FinetuneConfig:
    """Which weights are trained, and the size of adapters: conf/finetune."""

    kind: choices.Finetune = choices.Finetune.full  # of runs that were saved before there was another
    rank: int = 16
    alpha: float = 32.0
    targets: list[str] = field(default_factory=lambda: ["qkv_proj", "out_proj", "fc_in", "fc_out"])
    quantize: choices.QuantizeFrozen | None = None


@dataclass
class LossScaleConfig:
    """Dynamic scale of the loss in fp16: conf/layout."""

    initial_power: int = MISSING
    window: int = MISSING
    hysteresis: int = MISSING
    minimum: int = MISSING


@dataclass
class ZeroConfig:
    """Sizes of DeepSpeed's ZeRO, in elements of tensors: conf/layout."""

    reduce_bucket_size: int = MISSING
    allgather_bucket_size: int = MISSING
    sub_group_size: int = MISSING
    prefetch_bucket_size: int = MISSING
    param_persistence_threshold: int = MISSING
    max_live_parameters: int = MISSING
    max_reuse_distance: int = MISSING
    hpz_partition_size: int = MISSING


@dataclass
class LayoutConfig:
    """How the model and the data are distributed over processes: conf/layout."""

    name: str = MISSING
    tensor_parallel_size: int = MISSING
    pipeline_parallel_size: int = MISSING
    data_parallel_size: int | None = None
    sequence_parallel: bool = MISSING
    zero_stage: int = MISSING
    offload: choices.Offload = MISSING
    micro_batch_size: Any = MISSING  # `auto` in a file; an int once it is composed
    recompute: choices.Recompute = MISSING
    precision: choices.Precision = MISSING
    keep_fp8_weights: bool = MISSING
    reduce_dtype: choices.Precision = MISSING
    loss_chunk_tokens: int = MISSING
    tensor_parallel_overlap: bool = MISSING
    regather_sequence: bool = MISSING
    balance: choices.Balance = MISSING
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)


@dataclass
class KernelsConfig:
    """Implementation of each operation: conf/kernels."""

    compile: bool = MISSING
    attention: choices.KernelForm = MISSING
    branches: choices.FusedForm = MISSING
    norm: choices.NormForm = MISSING
    weight_gradient: choices.ApexForm = MISSING
    optimizer: choices.ApexForm = MISSING


@dataclass
class TrackingConfig:
    """Records of training: conf/tracking."""

    project: str = MISSING
    entity: str | None = None
    log_every: int = MISSING
    straggler_threshold: float = MISSING
    wandb: bool = MISSING
    wandb_seconds: float = MISSING
    tensorboard: bool = MISSING


@dataclass
class HealthConfig:
    """What is done about steps, losses and replicas that are not as they should be: conf/health."""

    bad_steps: int = MISSING
    on_bad: choices.OnBad = MISSING
    rewinds: int = MISSING
    on_spike: choices.OnSpike = MISSING
    spike_window: int = MISSING
    spike_deviations: float = MISSING
    compare_every: int = MISSING
    hang_seconds: float = MISSING


@dataclass
class ProfileConfig:
    """Optimizer steps under torch's profiler: conf/profile."""

    steps: int = 0
    skip: int = 0


@dataclass
class TaskConfig:
    """A benchmark that is scored while a stage trains: `evaluation.tasks` in conf/evaluation."""

    every: int = MISSING
    samples: int = MISSING
    problems: int | None = None
    settings: list[str] = field(default_factory=list)


@dataclass
class EvaluationConfig:
    """Validation and samples: conf/evaluation."""

    every: int = MISSING
    batch_size: int = MISSING
    sample_prompts: dict[str, str] = field(default_factory=dict)
    sample_tokens: int = MISSING
    sample_temperature: float = MISSING
    sample_top_p: float = MISSING
    tasks: dict[str, TaskConfig] = field(default_factory=dict)


@dataclass
class RunConfig:
    """Folder, seed and checkpoints of the run: conf/config.yaml."""

    root: str = MISSING
    group: str = MISSING
    name: str = MISSING
    seed: int = MISSING
    save_every: int = MISSING
    keep_checkpoints: int = MISSING
    keep_every: int | None = None
    keep_best: bool = MISSING
    extend: bool = False
    resume: str = MISSING
    until: str | None = None


@dataclass
class Settings:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: dict[str, RecipeConfig] = field(default_factory=dict)
    stages: dict[str, StageConfig] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    dry_run: bool = False


def plain(settings: Any) -> Any:
    """`settings` as nested dicts, lists and scalars, enums by name: the form that is saved with a run and compared."""
    if is_dataclass(settings):
        return {each.name: plain(getattr(settings, each.name)) for each in fields(settings)}
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [plain(value) for value in settings]
    return settings.name if isinstance(settings, Enum) else settings
