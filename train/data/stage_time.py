"""How long a stage will take: as this run has trained before, or as `train.plan` predicts for a Slurm job's GPUs.

Of other new runs `train.estimate` tells it, once the devices are there.
"""

from dataclasses import replace

from conf.check import AUTO
from conf.choices import ClusterKind
from conf.plural import plural
from conf.run_folder import newest_speed, run_folder
from conf.schema import Settings, StageConfig


def stage_seconds(settings: Settings, name: str, stage: StageConfig) -> tuple[float, str] | None:
    """Seconds of all steps of `stage`, and where the figure comes from; None where there is nothing to tell it from.

    Saving, evaluation and waiting for a job are not counted.
    """
    tokens = stage.steps * stage.global_batch_size * settings.model.context_length
    measured = newest_speed(run_folder(settings))
    if measured:
        return tokens / measured, "as this run trained last"
    cluster, layout = settings.cluster, settings.layout
    if cluster.kind is not ClusterKind.slurm or not cluster.slurm.gpus_per_node or layout.micro_batch_size == AUTO:
        return None
    from train.plan.planner import on_gpu, world_size  # loads torch: only for runs on GPUs
    from train.plan.speed import predict

    size = world_size(settings)
    step = predict(replace(on_gpu(settings), stages={name: stage}), size).total
    return stage.steps * step, f"predicted for {size} {plural('GPU', size)}"
