"""The time that the stages of a new run will take, told before the first step."""

from dataclasses import replace

from conf.check import data_parallel_size, gradient_accumulation_steps
from conf.duration import format_duration
from conf.run_folder import newest_speed
from conf.schema import Settings, StageConfig
from model.dtypes import DTYPES
from model.layer_costs import measured_seconds
from parallel.pipeline import pipeline_bubble
from train.context import RunContext

ROUNDS = 2  # timed passes of a layer


def log_estimates(context: RunContext) -> None:
    """Log a line for each stage, from the time of each kind of layer on the main process's device.

    A run that has trained before was told by its own speed (`train.data.stage_time`).
    """
    if not context.mesh.is_main or newest_speed(context.folder) is not None:
        return
    settings = context.settings
    one = replace(settings, layout=replace(settings.layout, micro_batch_size=1))
    layers = measured_seconds(one, context.mesh.device, context.kernels, DTYPES[context.precision], ROUNDS)
    sequence = layers["embedding"] + settings.model.n_layer * layers["block"] + layers["head"]
    for name, stage in settings.stages.items():
        seconds = training_seconds(settings, stage, sequence, context.mesh.size)
        context.log(f"stage {name}: about {format_duration(seconds)} of training, by the time of its layers here")


def training_seconds(settings: Settings, stage: StageConfig, sequence: float, size: int) -> float:
    """Seconds of all steps of `stage` on `size` processes, where one alone takes `sequence` seconds a sequence.

    The pipeline's bubble is in it; collectives, optimizer, evaluation and saving are not.
    """
    layout = settings.layout
    replicas = data_parallel_size(settings, size)
    count = gradient_accumulation_steps(settings, stage.global_batch_size, size)
    step = stage.global_batch_size / replicas * sequence * (1 + pipeline_bubble(layout.pipeline_parallel_size, count))
    return stage.steps * step / (layout.tensor_parallel_size * layout.pipeline_parallel_size)
