"""What is refused of an evaluation before anything is sampled; test_main.py has what its user sees."""

import pytest

from conf.commands import Evaluate, read_command
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.check import check


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
