"""A real run under `profile=steps`: two pipeline stages, a trace of each, and one table."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from conf.compose import compose_settings
from conf.run_folder import read_metrics
from tests.train import test_health
from tests.train.test_health import words_of
from tests.train.test_loop import write_corpora
from tests.worlds import Worlds
from train.data.prepare import prepare
from train.profile import StepProfile
from train.time_shares import STEP, read_trace


def test_a_stage_leaves_traces_and_a_table(tmp_path: Path, worlds: Worlds) -> None:
    write_corpora(tmp_path)
    own = ["profile=steps", "profile.skip=2", "layout.pipeline_parallel_size=2"]
    words = words_of(tmp_path, "profiled", *own)
    prepare(compose_settings(words, 2))
    (_, said), _ = worlds(2).run(test_health.run, words, None, False)
    folder = tmp_path / "runs/profiled/stages/nl/profile"
    assert sorted(path.name for path in folder.iterdir()) == ["rank_0.json.gz", "rank_1.json.gz", "table.md"]
    table = (folder / "table.md").read_text()
    assert any(line.startswith("profile of 2 steps, in ") and line.endswith(table) for line in said)
    rows = [line.split(" | ") for line in table.splitlines()[2:4]]
    assert [row[0] for row in rows] == ["| 0", "| 1"]
    for row, rank in zip(rows, (0, 1), strict=True):
        parts = [float(cell.strip(" |")) for cell in row[2:7]]
        assert abs(sum(parts) - 100) < 0.3 and all(parts), "attention, matmul, elementwise, collectives, idle"
        path = folder / f"rank_{rank}.json.gz"
        assert read_trace(path).steps == 2
        with gzip.open(path, "rt") as file:
            events = json.load(file)["traceEvents"]
        assert sum(event["name"] == STEP for event in events) == 2
    rates = [row["tokens_per_second"] for row in read_metrics(tmp_path / "runs/profiled") if "loss" in row]
    assert rates[3] < 20 * max(rates[1:3] + rates[4:]), (
        "writing the trace is left out of the step's time, the step itself is not"
    )


def test_a_stage_that_is_too_short_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    settings = compose_settings(["profile=steps", "model=tiny", "stage=nl", "stages.nl.steps=120"])
    mesh = SimpleNamespace(tp=SimpleNamespace(rank=0), dp_rank=0)
    context: Any = SimpleNamespace(settings=settings, folder=tmp_path, mesh=mesh, log=said.append)
    profile = StepProfile(context, "nl", 115, cast(Any, None))
    with profile.step():
        pass
    assert said == ["warning: no profile of stage nl: 5 steps are left, and profile.skip=4 and profile.steps=2 take 6"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", [0, 4, 5])  # the profiler waits, warms up, records
def test_a_profiler_whose_steps_end_early_is_stopped(taken: int, tmp_path: Path) -> None:
    """As where patience ends the stage, or the run goes back and profiles the stage again."""
    said: list[str] = []
    settings = compose_settings(["profile=steps", "model=tiny", "stage=nl"])
    mesh = SimpleNamespace(tp=SimpleNamespace(rank=0), dp_rank=0, rank=0, device=torch.device("cpu"))
    context: Any = SimpleNamespace(settings=settings, folder=tmp_path, mesh=mesh, log=said.append)
    for _ in range(2):
        with StepProfile(context, "nl", 0, cast(Any, None)) as profile:
            for _ in range(taken):
                with profile.step():
                    torch.ones(2) + 1
        assert not torch.autograd._profiler_enabled()
    assert said == [f"warning: no profile of stage nl: its steps ended {6 - taken} too early"] * 2
