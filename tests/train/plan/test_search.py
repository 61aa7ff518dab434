"""The fastest layouts that fit."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conf.check import check
from conf.compose import compose_settings
from conf.errors import ConfigError
from train.plan.planner import on_gpu, plan, usable_bytes
from train.plan.search import _candidates, fastest_layouts, settings_of

ROOT = Path(__file__).parents[3]


def test_the_layouts_fit_run_and_are_in_order() -> None:
    settings = on_gpu(compose_settings(["cluster=slurm_a100", "model=350m"]))
    usable = usable_bytes(12)
    found = fastest_layouts(settings, 8, usable, count=2)
    assert len(found) == 2 and found[0].time.total <= found[1].time.total
    for each in found:
        assert each.memory <= usable
    free = fastest_layouts(settings, 8, usable_bytes(80), count=1)
    assert free[0].time.total < found[0].time.total, "more memory allows a faster layout"


def test_a_second_copy_in_each_node_is_tried_for_zero_3_on_several() -> None:
    settings = on_gpu(compose_settings(["cluster=slurm_a100", "model=350m"]))
    tried = {size: [other.layout for other, _ in _candidates(settings, size)] for size in (8, 16)}
    near = [layout for layout in tried[16] if layout.zero.hpz_partition_size == 8]
    assert near and all(layout.zero_stage == 3 and layout.tensor_parallel_size == 1 for layout in near)
    assert all(layout.zero.hpz_partition_size == 1 for layout in tried[8])
    assert settings_of(near[0])["zero.hpz_partition_size"] == 8


def test_none_fits_a_gpu_that_is_too_small() -> None:
    settings = on_gpu(compose_settings(["cluster=slurm_a100", "model=350m"]))
    assert fastest_layouts(settings, 8, 0) == []


def test_layouts_of_three_gpus_have_three_stages() -> None:
    """Two replicas do not fit, and the batch is no multiple of three."""
    settings = on_gpu(compose_settings(["cluster=slurm_a100", "model=2b", "cluster.processes_per_node=3"]))
    (found,) = fastest_layouts(settings, 3, usable_bytes(80), count=1)
    assert found.layout.pipeline_parallel_size == 3


def test_a_batch_that_no_layout_divides_is_told() -> None:
    settings = on_gpu(compose_settings(["cluster=slurm_a100", "model=350m", "nodes=23"]))
    with pytest.raises(ConfigError, match="divides global_batch_size=256 among the replicas on 184 GPUs; use another"):
        fastest_layouts(settings, 184, usable_bytes(80))


def test_tensor_parallelism_stays_within_nodes_of_four() -> None:
    words = ["cluster=slurm_a100", "model=350m", "nodes=2", "cluster.processes_per_node=4"]
    tried = [other.layout for other, _ in _candidates(on_gpu(compose_settings(words)), 8)]
    assert max(layout.tensor_parallel_size for layout in tried) == 4
    assert {layout.zero.hpz_partition_size for layout in tried} == {1, 4}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train.plan", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ})


def test_a_script_reads_the_layouts_and_the_command() -> None:
    found = json.loads(run("model=350m", "gpus=8", "best=true", "--json").stdout)
    assert found["layouts"][0]["mfu"] > 0.3 and found["command"].startswith("python -m launch model=350m")


@pytest.mark.parametrize("words", [["model=350m"], ["experiment=codegen_350m", "layout=a100_64"]])
def test_the_printed_command_is_a_run_that_fits(words: list[str]) -> None:
    done = run(*words, "gpus=8", "best=true")
    assert done.returncode == 0 and done.stderr == ""
    command = next(line for line in done.stdout.splitlines() if line.startswith("python -m launch"))
    overrides = shlex.split(command)[3:]
    settings = on_gpu(compose_settings(overrides, 8))
    check(settings, 8)
    assert max(stage.total for stage in plan(settings, 8)) <= usable_bytes(80)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpus=12"], "gpus=12 must be 1 to 8, or a multiple of 8"),
        (["gpus=many"], "gpus=many must be"),
        (["best=true"], "best=true needs the memory of a GPU"),
        (["best=maybe"], "best=maybe must be true or false"),
    ],
)
def test_what_cannot_be_searched_is_one_line(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_gpus_are_nodes_of_eight() -> None:
    figures = json.loads(run("model=350m", "gpus=16", "--json").stdout)
    assert figures["gpus"] == 16
    assert figures["step_seconds"] == pytest.approx(sum(figures["seconds"].values()))
