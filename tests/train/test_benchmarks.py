"""Benchmarks of a stage: what is refused before training, what an interrupted run takes up. test_loop.py has runs."""

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from tests.worlds import Worlds, mesh_of
from train.benchmarks import SAMPLES, SCORES, Benchmarks, spare_cores
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
        (
            "{humanevil: {every: 1, samples: 2}}",
            "evaluation.tasks.humanevil is not known; use humaneval, humaneval_plus, mbpp, multipl_e",
        ),
        ("{perplexity: {every: 1, samples: 2}}", "evaluation.tasks.perplexity has no completions to score"),
        ("{humaneval: {every: 1, samples: 2, settings: ['max_new_tokens=9999']}}", "leaves no room for a prompt"),
        ("{humaneval: {every: 1, samples: 2, settings: ['problems=/none.jsonl', 'max_new_tokens=9']}}", "/none.jsonl"),
        ("{humaneval_plus: {every: 1, samples: 2, settings: ['max_new_tokens=9']}}", "needs problems=HumanEvalPlus"),
        *(
            (f"{{humaneval: {{every: 1, samples: 2, settings: ['{word}', 'max_new_tokens=9']}}}}", said)
            for word, said in (
                ("top_p=0", "top_p=0.0 must be above 0"),
                ("temperatures=[]", "temperatures=[] draws no sample"),
                ("k=[0,1]", "evaluation.tasks.humaneval: pass@k of 2 samples needs 1 <= k <= 2; k=[0, 1], use k=[1]"),
                ("k=[10]", "pass@k of 2 samples needs 1 <= k <= 2; k=[], use k=[1]"),
            )
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_step(task: str, said: str, worlds: Worlds, tmp_path: Path) -> None:
    ((errors, _),) = worlds(1).run(opened, str(tmp_path), task)
    assert len(errors) == 1 and said in errors[0] and "\n" not in errors[0]


def task_in(folder: Path) -> str:
    """The setting of a task of two problems, which are written to `folder`."""
    problems = folder / "functions.jsonl"
    problems.write_text("".join(json.dumps({"task_id": name, "test": TEST, **FUNCTION}) + "\n" for name in ("a", "b")))
    options = [f"problems={problems}", "k=[1,2,5]", "max_new_tokens=9", f"sandbox={ALLOWED.name}", "seconds=300"]
    return f"{{humaneval: {{every: 4, samples: 2, settings: {options}}}}}"


def test_samples_of_an_interrupted_run_are_scored_when_it_goes_on(worlds: Worlds, tmp_path: Path) -> None:
    for step, completions in ((4, ["    return 1\n", "    return 2\n"]), (8, ["    return 1\n"] * 2)):
        folder = tmp_path / f"stages/nl/evaluations/humaneval_step_{step:09d}"
        folder.mkdir(parents=True)
        rows = [{"task_id": name, "sample": n, "completion": c} for name in "ab" for n, c in enumerate(completions)]
        (folder / SAMPLES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = task_in(tmp_path)
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


def test_samples_that_cannot_be_read_are_a_warning(worlds: Worlds, tmp_path: Path) -> None:
    folder = tmp_path / "stages/nl/evaluations/humaneval_step_000000004"
    folder.mkdir(parents=True)
    (folder / SAMPLES).write_text('{"task_id": "a", "sam')
    ((logged, recorded),) = worlds(1).run(opened, str(tmp_path), task_in(tmp_path))
    assert not recorded
    assert len(logged) == 1 and logged[0].startswith("warning: humaneval after step 4 could not be scored: ")
    assert logged[0].endswith(f"; see {folder}")


def disturbed(folder: str, task: str, how: str) -> list[str]:
    """The files of step 4 where samples are drawn and a kill comes before they are renamed, or where the stage is left
    while they are scored."""
    settings = compose_settings(["model=tiny", "stage=nl", f"evaluation.tasks={task}"])
    context: Any = SimpleNamespace(settings=settings, folder=Path(folder), mesh=mesh_of(), log=print)
    benchmarks = Benchmarks(context, "nl", StopSignal.__new__(StopSignal))
    rows = [{"task_id": name, "sample": n, "completion": "    return 1\n"} for name in "ab" for n in range(2)]

    def left(trials: list[Any], *_: Any) -> list[Any]:
        benchmarks.leave()
        return [SimpleNamespace(passed=True) for _ in trials]

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    engine: Any = None
    with (
        patch.object(benchmarks, "_samples", lambda *_: rows),
        patch("train.benchmarks.run_programs", left),
        patch("os.replace", killed) if how == "killed" else nullcontext(),
        patch.object(Path, "replace", killed) if how == "killed" else nullcontext(),
        suppress(KeyboardInterrupt),
    ):
        benchmarks.sample(4, engine)
        benchmarks.scoring[0][2].join()
    return [path.name for path in Path(folder).glob("stages/nl/evaluations/humaneval_step_000000004/*.json*")]


@pytest.mark.parametrize(("how", "files"), [("killed", []), ("left", [SAMPLES])])
def test_samples_are_whole_or_not_there_and_a_stage_that_is_left_has_no_scores(
    how: str, files: list[str], worlds: Worlds, tmp_path: Path
) -> None:
    """A stage that goes back samples anew: scores of the discarded weights would stand beside the new samples."""
    (found,) = worlds(1).run(disturbed, str(tmp_path), task_in(tmp_path), how)
    assert [name for name in found if name in (SAMPLES, SCORES)] == files


def test_spare_cores_are_among_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setenv("LOCAL_SIZE", "2")
    assert spare_cores() == 4
    monkeypatch.setenv("LOCAL_SIZE", "8")
    assert spare_cores() == 1
