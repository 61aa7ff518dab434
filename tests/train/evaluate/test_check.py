"""What is refused of an evaluation before anything is sampled; test_main.py has what its user sees."""

from pathlib import Path

import pytest

from conf.commands import Evaluate, read_command
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.check import benchmark_problems, check


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=humaneval_plus"], "task=humaneval_plus needs problems=HumanEvalPlus.jsonl.gz"),
        (["task=humaneval", "samples=2", "k=[]"], "pass@k of 2 samples needs 1 <= k <= 2; k=[], use k=[1]"),
        (["task=mbpp", "samples=2", "k=[0,2]"], "k=[0, 2], use k=[2]"),
        (["task=infill", "samples=2"], "task=infill writes each line once"),
        (["task=perplexity", "paths=[/none.txt]"], "/none.txt does not exist"),
    ],
)
def test_settings_that_do_not_fit_each_other_get_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(read_command(Evaluate, ["run=-", f"sandbox={ALLOWED.name}", *words]))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_fit_are_taken() -> None:
    check(read_command(Evaluate, ["run=-", f"sandbox={ALLOWED.name}", "task=humaneval", "samples=2", "k=[1,2]"]))


def test_the_problems_of_a_benchmark_are_read_or_the_setting_is_named(tmp_path: Path) -> None:
    words = ["run=-", f"sandbox={ALLOWED.name}", "task=humaneval", "samples=1", "k=[1]"]
    assert len(benchmark_problems(read_command(Evaluate, words))) == 164
    with pytest.raises(ConfigError, match=r"^evaluation\.tasks\.humaneval: problems=.*empty holds no problem$"):
        (tmp_path / "empty").touch()
        benchmark_problems(read_command(Evaluate, [*words, f"problems={tmp_path}/empty"]))
