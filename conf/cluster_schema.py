"""The typed settings of the machines, a part of `conf/schema.py`, through which they are imported."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from conf import choices


@dataclass
class SlurmConfig:
    """Resources and setup of a Slurm job: conf/cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str = MISSING
    gpus_per_node: int = MISSING
    cpus_per_task: int | None = None
    prepare_cpus: int | None = None
    prepare_partition: str | None = None
    signal_seconds: int | None = None
    max_requeues: int = MISSING
    modules: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    python: str | None = None
    sbatch: list[str] = field(default_factory=list)
    srun: list[str] = field(default_factory=list)


@dataclass
class GpuConfig:
    """Figures of one GPU that `train.plan` predicts time from: conf/cluster."""

    peak_tflops: float = MISSING
    matmul_efficiency: float = MISSING
    attention_efficiency: float = MISSING
    memory_gb_per_second: float = MISSING
    memory_efficiency: float = MISSING
    node_gb_per_second: float = MISSING
    network_gb_per_second: float = MISSING


@dataclass
class ClusterConfig:
    """Machines: conf/cluster."""

    kind: choices.ClusterKind = MISSING
    nodes: int = MISSING
    processes_per_node: int | None = None
    hostfile: str | None = None
    exclude: list[str] = field(default_factory=list)
    spares: int = MISSING
    remote_shell: choices.RemoteShell = MISSING
    cpu_processes: int = MISSING
    port: int = MISSING
    join_seconds: float = MISSING
    collective_seconds: float = MISSING
    grace_seconds: float = MISSING
    lock_seconds: float = MISSING
    restarts: int = MISSING
    restart_seconds: int = MISSING
    min_free_gib: float = MISSING
    max_clock_skew_seconds: float = MISSING
    shared_folder_seconds: float = MISSING
    peak_tflops: float | None = None
    device_memory_gib: float | None = None
    gpu: GpuConfig = field(default_factory=GpuConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
