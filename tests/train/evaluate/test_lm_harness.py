"""`task=harness` hands an exported folder to lm_eval, which is optional: a module in its place records the call."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conf.run_folder import evaluations_of
from train.evaluate import lm_harness
from train.evaluate.__main__ import main

CALLS: list[dict[str, Any]] = []


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module lm_eval that knows the task `known`."""

    def simple_evaluate(**arguments: Any) -> dict[str, Any]:
        CALLS.append(arguments)
        if arguments["tasks"] != ["known"]:
            raise ValueError(f"Tasks not found: {arguments['tasks'][0]}\nmore")
        return {"results": {"known": {"alias": "known", "acc,none": 0.25}}, "config": {}}

    module = ModuleType("lm_eval")
    vars(module)["simple_evaluate"] = simple_evaluate
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    monkeypatch.setattr(lm_harness, "find_spec", lambda name: name)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What tells an exported folder from others."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.usefixtures("lm_eval")
def test_an_exported_folder_is_handed_over(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(exported)  # results of weights that are no run's go to the working directory
    words = [f"run={exported}", "task=harness", "harness_tasks=[known]", "precision=bf16", "batch_size=3"]
    assert main(words) == 0
    assert CALLS[-1]["model"] == "hf" and CALLS[-1]["batch_size"] == 3
    assert CALLS[-1]["model_args"] == {"pretrained": str(exported), "dtype": "bfloat16"}
    result = json.loads((evaluations_of(str(exported)) / "harness.json").read_text())
    assert result["harness"] == {"known": {"acc,none": 0.25}}
    assert "known acc,none" in capsys.readouterr().out
    assert main([*words, "harness_tasks=[unknown]"]) == 2
    assert capsys.readouterr().err == "error: lm_eval: Tasks not found: unknown\n"


@pytest.mark.usefixtures("lm_eval")
def test_what_cannot_be_handed_over_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["harness_tasks=[known]"], "task=harness needs an exported folder; write `python -m model.huggingface export"),
        ([], "task=harness needs harness_tasks=[...]"),
    ):
        assert main([f"run={tmp_path}", "task=harness", *words]) == 2
        assert said in capsys.readouterr().err


def test_a_missing_package_is_one_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lm_harness, "find_spec", lambda name: None)
    assert main([f"run={exported}", "task=harness", "harness_tasks=[known]"]) == 2
    assert "needs the package lm_eval, which is not installed; pip install 'lm_eval[hf]'" in capsys.readouterr().err
