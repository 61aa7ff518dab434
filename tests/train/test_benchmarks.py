"""Benchmarks of a stage: what is refused before training, what an interrupted run takes up. test_loop.py has runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from tests.worlds import Worlds, mesh_of
from train.benchmarks import SAMPLES, Benchmarks
from train.stop import StopSignal

FUNCTION = {"entry_point": "one", "canonical_solution": "", "prompt": "def one():\n"}
TEST = "def check(candidate):\n    assert candidate() == 1\n"


def opened(folder: str, task: str) -> tuple[list[str], list[Any]]:
    """(error or nothing, what was recorded) where a run in `folder` opens a stage's benchmarks and waits for scores."""
    logged: list[str] = []
    settings = compose_settings(["model=tiny", "stage=nl", f"evaluation.tasks={task}"])
    quiet = SimpleNamespace(beat=lambda place=None: None)
    context: Any = SimpleNamespace(
        settings=settings, folder=Path(folder), mesh=mesh_of(), log=logged.append, watchdog=quiet
    )
    stop = StopSignal.__new__(StopSignal)
    try:
        benchmarks = Benchmarks(context, "nl", stop)
    except ConfigError as error:
        return [str(error)], []
    recorded: list[Any] = []
    tracker: Any = SimpleNamespace(record_benchmark=lambda *values: recorded.append(values))
    benchmarks.record(tracker, wait=True)
    return logged, recorded


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("{humanevil: {every: 1, samples: 2}}", "task=humanevil is not known"),
        ("{perplexity: {every: 1, samples: 2}}", "evaluation.tasks.perplexity has no completions to score"),
        ("{humaneval: {every: 1, samples: 2, settings: ['max_new_tokens=9999']}}", "leaves no room for a prompt"),
        ("{humaneval: {every: 1, samples: 2, settings: ['problems=/none.jsonl', 'max_new_tokens=9']}}", "/none.jsonl"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_step(task: str, said: str, worlds: Worlds, tmp_path: Path) -> None:
    ((errors, _),) = worlds(1).run(opened, str(tmp_path), task)
    assert len(errors) == 1 and said in errors[0] and "\n" not in errors[0]


def test_samples_of_an_interrupted_run_are_scored_when_it_goes_on(worlds: Worlds, tmp_path: Path) -> None:
    problems = tmp_path / "functions.jsonl"
    problems.write_text("".join(json.dumps({"task_id": name, "test": TEST, **FUNCTION}) + "\n" for name in ("a", "b")))
    for step, completions in ((4, ["    return 1\n", "    return 2\n"]), (8, ["    return 1\n"] * 2)):
        folder = tmp_path / f"stages/nl/evaluations/humaneval_step_{step:09d}"
        folder.mkdir(parents=True)
        rows = [{"task_id": name, "sample": n, "completion": c} for name in "ab" for n, c in enumerate(completions)]
        (folder / SAMPLES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [f"problems={problems}", "k=[1,2,5]", "max_new_tokens=9", f"sandbox={ALLOWED.name}", "seconds=300"]
    task = f"{{humaneval: {{every: 4, samples: 2, settings: {options}}}}}"
    ((logged, recorded),) = worlds(1).run(opened, str(tmp_path), task)
    assert recorded == [
        ("nl", 4, "humaneval", {"1": 0.5, "2": 1.0}),
        ("nl", 8, "humaneval", {"1": 1.0, "2": 1.0}),
    ]
    assert not logged
    scores = tmp_path / "stages/nl/evaluations/humaneval_step_000000004/scores.json"
    made = scores.stat().st_mtime_ns
    row = {"stage": "nl", "step": 8, "humaneval/pass@1": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")  # the other's record was lost with the run
    ((_, again),) = worlds(1).run(opened, str(tmp_path), task)
    assert again == recorded[:1] and scores.stat().st_mtime_ns == made
