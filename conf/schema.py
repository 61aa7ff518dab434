"""The typed settings of a run. Hydra composes them, OmegaConf checks the types, `conf/check.py` checks the meaning.

Each field's meaning and unit stand as a comment beside its value in the YAML files of this folder.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Precision(Enum):
    """Number format of weights and activations."""

    auto = "auto"  # bf16 on a CUDA device that has it, fp32 elsewhere; resolved once at start-up and logged
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Schedule(Enum):
    """Course of the learning rate."""

    cosine = "cosine"  # linear warm-up, cosine to the end rate, then flat: the paper's
    wsd = "wsd"  # linear warm-up, stable at the peak, linear decay to the end rate


class Handover(Enum):
    """What a stage takes from its parent."""

    weights = "weights"  # fresh optimizer, step 0, new schedule, new data: the paper's
    full = "full"  # the optimizer's state goes along


class Decay(Enum):
    """Which parameters weight decay pulls on."""

    matrices = "matrices"  # every tensor of two or more dimensions
    jaxformer = "jaxformer"  # all but the final LayerNorm and the head's bias, as the paper's code did


class Recompute(Enum):
    """What the backward pass computes again instead of keeping."""

    none = "none"
    selective = "selective"  # the activations that are large and cheap to make again
    full = "full"  # every block is run again in the backward pass


class Balance(Enum):
    """What is made even when layers are cut into pipeline stages."""

    flops = "flops"
    parameters = "parameters"
    time = "time"  # measured at start-up


class Offload(Enum):
    """What lives in host memory."""

    none = "none"
    optimizer = "optimizer"
    parameters = "parameters"  # the optimizer's state goes along


class Source(Enum):
    """Where a corpus comes from."""

    local = "local"
    files = "files"
    hub = "hub"


class OnError(Enum):
    """What becomes of a document that cannot be read."""

    fail = "fail"
    skip = "skip"


class ClusterKind(Enum):
    """Who starts the processes."""

    local = "local"


class Form(Enum):
    """Form of an operation."""

    auto = "auto"
    reference = "reference"


@dataclass
class Model:
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
class Stage:
    """One stage of training: conf/stage."""

    corpus: str = MISSING
    steps: int = MISSING
    global_batch_size: int = MISSING
    peak_learning_rate: float = MISSING
    end_learning_rate: float = MISSING
    schedule: Schedule = MISSING
    warmup_steps: int = MISSING
    anneal_steps: int = MISSING
    handover: Handover = MISSING
    init_from: str | None = None


@dataclass
class Recipe:
    """The numbers of a stage that depend on the model's size: conf/recipe."""

    global_batch_size: int = MISSING
    steps: int = MISSING
    peak_learning_rate: float = MISSING
    end_learning_rate: float = MISSING
    warmup_steps: int = MISSING
    anneal_steps: int = MISSING


@dataclass
class Corpus:
    """Where documents come from: conf/corpus."""

    source: Source = MISSING
    name: str = MISSING  # local: nl, multi or mono; hub: the data set's name; files: a word for the reports
    paths: list[str] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)
    split: str = "train"
    text_column: str = "text"
    language_column: str | None = None
    language_prefix: bool = False
    code: bool = False
    max_bytes: int | None = None


@dataclass
class Filters:
    """Bounds of a code file that is kept: conf/data."""

    average_line_length: int = MISSING
    longest_line_length: int = MISSING
    digit_fraction: float = MISSING


@dataclass
class Tokenizer:
    """Tokenizer: conf/data."""

    kind: str = MISSING
    path: str | None = None
    train_bytes: int = MISSING


@dataclass
class Data:
    """Corpora and their preparation: conf/data."""

    cache: str = MISSING
    on_error: OnError = MISSING
    validation_fraction: float = MISSING
    validation_bytes: int = MISSING
    filters: Filters = field(default_factory=Filters)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    corpora: dict[str, Corpus] = field(default_factory=dict)


@dataclass
class Optimizer:
    """Optimizer and loss: conf/optimizer."""

    beta1: float = MISSING
    beta2: float = MISSING
    epsilon: float = MISSING
    weight_decay: float = MISSING
    decay: Decay = MISSING
    gradient_clipping: float = MISSING
    z_loss: float = MISSING


@dataclass
class Layout:
    """How the model and the data are spread over processes: conf/layout."""

    name: str = MISSING
    tensor_parallel_size: int = MISSING
    pipeline_parallel_size: int = MISSING
    data_parallel_size: int | None = None
    sequence_parallel: bool = MISSING
    zero_stage: int = MISSING
    offload: Offload = MISSING
    micro_batch_size: int = MISSING
    recompute: Recompute = MISSING
    precision: Precision = MISSING
    loss_chunk_tokens: int = MISSING
    overlap: bool = MISSING
    balance: Balance = MISSING


@dataclass
class Kernels:
    """Forms of the operations: conf/kernels."""

    compile: bool = MISSING
    attention: Form = MISSING


@dataclass
class Cluster:
    """Machines: conf/cluster."""

    kind: ClusterKind = MISSING
    nodes: int = MISSING
    processes_per_node: int | None = None
    peak_tflops: float | None = None
    device_memory_gib: float | None = None


@dataclass
class Tracking:
    """What is recorded, and where: conf/tracking."""

    project: str = MISSING
    entity: str | None = None
    log_every: int = MISSING
    wandb: bool = MISSING


@dataclass
class Evaluation:
    """Validation and samples: conf/evaluation."""

    every: int = MISSING
    batch_size: int = MISSING
    sample_prompts: dict[str, str] = field(default_factory=dict)
    sample_tokens: int = MISSING
    sample_temperature: float = MISSING
    sample_top_p: float = MISSING


@dataclass
class Run:
    """The run's folder and its life: conf/config.yaml."""

    root: str = MISSING
    name: str = MISSING
    seed: int = MISSING
    save_every: int = MISSING
    keep_checkpoints: int = MISSING
    resume: str = MISSING


@dataclass
class Settings:
    """Everything a run is made of."""

    experiment: str = MISSING
    model: Model = field(default_factory=Model)
    recipe: dict[str, Recipe] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    layout: Layout = field(default_factory=Layout)
    kernels: Kernels = field(default_factory=Kernels)
    cluster: Cluster = field(default_factory=Cluster)
    tracking: Tracking = field(default_factory=Tracking)
    evaluation: Evaluation = field(default_factory=Evaluation)
    run: Run = field(default_factory=Run)
    dry_run: bool = False


def plain(settings: Any) -> Any:
    """Return `settings` as nested dicts, lists and scalars, enums by name: what is saved with a run and compared."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.structured(settings), resolve=True, enum_to_str=True)
