"""Settings of `evaluation.tasks` are refused by the launch, in one line, before data is prepared."""

from pathlib import Path

import pytest

from conf.benchmarks import COMPLETION_TASKS, benchmark_command
from conf.commands import task_names
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.inputs import check_inputs
from conf.schema import TaskConfig


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("{foo: {every: 1, samples: 2}}", "evaluation.tasks.foo is not known; use humaneval, humaneval_plus,"),
        ("{infill: {every: 1, samples: 1}}", "infill has no completions to score; use train.evaluate task=infill"),
        ("{humaneval: {every: 1, samples: 2, settings: ['top_q=1']}}", "humaneval: unknown setting 'top_q'"),
        ("{humaneval: {every: 1, samples: 2, settings: ['k=[3]']}}", "humaneval: pass@k of 2 samples needs 1 <= k"),
        ("{humaneval: {every: 1, samples: 2}}", "max_new_tokens=512 leaves no room for a prompt in the context of 256"),
        (
            "{mbpp: {every: 1, samples: 2, settings: ['problems=none.jsonl']}}",
            "mbpp: problems=none.jsonl is not a file",
        ),
        ("{humaneval_plus: {every: 1, samples: 2}}", "needs problems=HumanEvalPlus.jsonl.gz; no package brings it"),
    ],
)
def test_what_a_stage_cannot_be_scored_on_is_one_line(task: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_inputs(compose_settings([f"evaluation.tasks={task}"]))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_it_can_be_scored_on_is_taken(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").touch()
    words = [f"problems={tmp_path}/own.jsonl", "k=[1,2,10]", "max_new_tokens=9"]
    command = benchmark_command("humaneval", TaskConfig(every=1, samples=2, settings=words), 256)
    assert (command.k, command.samples, command.max_new_tokens) == ([1, 2], 2, 9)
    assert set(COMPLETION_TASKS) < set(task_names())
