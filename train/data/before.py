"""What is refused before data is prepared: what takes more than the settings to tell, and would else come hours later.

`conf.inputs` has what the settings and the files of this machine tell; a tokenizer is compared with a parent's as soon
as there is one (`train.data.parents`).
"""

from pathlib import Path

from conf.benchmarks import benchmark_command
from conf.choices import ClusterKind
from conf.errors import ConfigError
from conf.inputs import model_differences
from conf.run_folder import is_finished, run_folder
from conf.schema import Settings
from conf.sources import is_hub_name
from model.hub import local_folder
from train.evaluate.check import benchmark_problems


def refuse_before_data(settings: Settings) -> None:
    """Errors: `ConfigError` for a parent on the hub that is another model, and, where this machine is the one that
    trains, for a benchmark whose problems cannot be read or whose programs cannot be run here."""
    for name, stage in settings.stages.items():
        if stage.init_from is None or not is_hub_name(stage.init_from) or is_finished(run_folder(settings), name):
            continue
        folder = local_folder(stage.init_from, ["config.json"], f"stages.{name}.init_from")
        for problem in model_differences(settings, name, Path(folder)):
            raise ConfigError(problem)
    if settings.cluster.kind is ClusterKind.local:
        for name, task in settings.evaluation.tasks.items():
            benchmark_problems(benchmark_command(name, task, settings.model.context_length))
