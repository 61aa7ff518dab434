"""The time of a stage: measured where the run has trained, predicted for GPUs, and not made up."""

import json

import pytest

from conf.compose import compose_settings
from conf.duration import format_duration
from conf.run_folder import run_folder
from train.data.stage_time import stage_seconds
from train.plan.planner import on_gpu, world_size
from train.plan.speed import predict


def test_the_time_is_predicted_for_the_gpus_of_a_job(tmp_path):
    settings = compose_settings(["experiment=codegen_350m", "cluster=slurm_a100", f"run.root={tmp_path}"])
    name, stage = next(iter(settings.stages.items()))
    seconds, source = stage_seconds(settings, name, stage)
    size = world_size(settings)
    assert seconds == pytest.approx(stage.steps * predict(on_gpu(settings), size).total)
    assert source == f"predicted for {size} GPUs" and format_duration(seconds)


def test_the_time_is_measured_where_the_run_has_trained(tmp_path):
    settings = compose_settings(["experiment=smoke", f"run.root={tmp_path}"])
    name, stage = next(iter(settings.stages.items()))
    assert stage_seconds(settings, name, stage) is None, "nothing is known of this machine"
    folder = run_folder(settings)
    folder.mkdir(parents=True)
    row = {"stage": name, "step": 1, "loss": 2.0, "tokens_per_second": 2.0, "start_seconds": 60.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert stage_seconds(settings, name, stage) is None, "the first step of a process tells no speed: it compiles"
    row = {"stage": name, "step": 10, "loss": 2.0, "tokens_per_second": 100.0}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    tokens = stage.steps * stage.global_batch_size * settings.model.context_length
    assert stage_seconds(settings, name, stage) == (pytest.approx(tokens / 100), "as this run trained last")
