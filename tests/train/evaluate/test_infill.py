"""Lines taken out of functions: which can be asked, and where they come from."""

import json
from pathlib import Path

import pytest

from conf.commands import Evaluate, read_command
from conf.errors import ConfigError
from train.evaluate.infill import first_line, functions_in, load_problems, without_a_line

PROGRAM = '''\
import os

class Tree:
    @property
    def leaves(self):
        """Of it.

        All.
        """
        # every one
        found = [
            self.left,
        ]

        return found

def one_line(): return 1

def empty():
    """Says nothing."""

async def two(a):
    b = a
    return b
'''


def test_functions_and_their_lines() -> None:
    functions = functions_in(PROGRAM)
    assert [function.split("(")[0] for function in functions] == ["def leaves", "async def two"]
    taken = {without_a_line(functions[0], seed)["canonical_solution"] for seed in range(60)}
    assert taken == {"    found = [\n", "        self.left,\n", "    return found\n"}
    problem = without_a_line(functions[1], 0)
    assert problem["prompt"] + problem["canonical_solution"] + problem["suffix"] == functions[1]
    assert problem == without_a_line(functions[1], 0)
    assert functions_in("print 'python 2'") == functions_in("x = 1\n") == []


@pytest.mark.parametrize(
    ("text", "line"), [("  x = 1\ny", "  x = 1"), ("\n\n x\n", "\n\n x"), ("x", None), ("\n", None), ("", None)]
)
def test_the_first_line_ends_where_it_is_whole(text: str, line: str | None) -> None:
    assert first_line(text) == line


def command(*words: str) -> Evaluate:
    return read_command(Evaluate, ["run=none", "task=infill", *words])


def test_problems_come_from_files_folders_and_the_authors_own(tmp_path: Path) -> None:
    (tmp_path / "code/deep").mkdir(parents=True)
    (tmp_path / "code/deep/tree.py").write_text(PROGRAM)
    (tmp_path / "code/copy.py").write_text(PROGRAM)
    (tmp_path / "code/binary.py").write_bytes(b"\xff\xfe")
    problems = load_problems(command(f"paths=[{tmp_path}/code]"))
    assert len(problems) == 2, "the same function counts once"
    assert str(problems[0]["task_id"]) == f"{tmp_path}/code/copy.py#0"
    own = {
        "task_id": "SingleLineInfilling/HumanEval/0/L0",
        "prompt": "a\n",
        "suffix": "c\n",
        "canonical_solution": "b\n",
    }
    (tmp_path / "theirs.jsonl").write_text(json.dumps(own) + "\n")
    assert load_problems(command(f"problems={tmp_path}/theirs.jsonl")) == [own]
    (tmp_path / "none.py").write_text("x = 1\n")
    for path, said in (("none.py", "there is no Python function"), ("code/binary.py", "cannot be read")):
        with pytest.raises(ConfigError, match=said):
            load_problems(command(f"paths=[{tmp_path / path}]"))
    with pytest.raises(ConfigError, match=r"none is no run with validation sets; name text files with paths="):
        load_problems(command())
