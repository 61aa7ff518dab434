"""The examples of CONTRIBUTING.md are complete: each is tried as it stands there."""

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from conf.commands import Evaluate, read_command
from conf.compose import compose_settings
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.completion import complete_batch
from train.evaluate.sandbox import Limits, run_program

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
FILES = {text.split("\n", 1)[0].removeprefix("# "): text.split("\n", 1)[1] for kind, text in BLOCKS if kind != "bash"}
LINES = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --config-dir with the YAML files of the examples."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        if name.startswith("conf/"):
            path = folder / name.removeprefix("conf/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder


def namespace_after(name: str, module: str) -> dict[str, Any]:
    """The names of `module`, and those that the example `name` defines."""
    found = {"torch": torch, "Tensor": torch.Tensor, **vars(importlib.import_module(module))}
    exec(compile(FILES[name], name, "exec"), found)
    return found


@pytest.mark.parametrize("line", LINES)
def test_commands(line: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python, flag, module, *words = shlex.split(line)
    assert (python, flag) == ("python", "-m")
    main = importlib.import_module(f"{module}.__main__").main
    assert main(["--config-dir", str(mine), *words]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_examples_change_what_they_say(mine: Path) -> None:
    searched = f"hydra.searchpath=[file://{mine}]"
    assert compose_settings([searched, "model=1b", "layout=a100_8"], 8).model.head_dim == 128
    assert compose_settings([searched, "optimizer=adamw_beta95"]).optimizer.beta2 == 0.95
    corpora = compose_settings([searched, "data=files", "stage=mono", "corpus@data.corpora.mono=scripts"]).data.corpora
    assert corpora["mono"].paths == ["scripts/**/*.py"]


def test_the_optimizer_decays_matrices_and_keeps_both_moments() -> None:
    radam = namespace_after("train/optimizer.py", "train.optimizer")["radam"]
    matrix, vector = (torch.nn.Parameter(torch.ones(shape)) for shape in ((3, 2), (3,)))
    optimizer = radam([("1.weight", matrix), ("1.bias", vector)], compose_settings([]).optimizer, 1)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    matrix.grad, vector.grad = torch.zeros_like(matrix), torch.zeros_like(vector)
    optimizer.step()
    assert matrix.allclose(torch.tensor(0.99)) and vector.equal(torch.ones(3))
    assert {"exp_avg", "exp_avg_sq"} <= optimizer.state[matrix].keys()


def test_the_kernel_s_forms_agree() -> None:
    found = namespace_after("model/kernels/activation.py", "model.kernels.attention")
    x, bias = torch.randn(3, 5, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    expected = found["reference_bias_gelu"](x, bias)
    assert found["in_place_bias_gelu"](x, bias).allclose(expected)


class Answers:
    """In a generator's place: completes each prompt with the square that it asks for, but for 3 * 3."""

    def generate(self, prompts: list[str], sampling: Any, seeds: list[int], stop: tuple[str, ...]) -> list[str]:
        assert stop == ("\n",)
        numbers = [int(prompt.split("\n")[0].rsplit(" ", 1)[1]) for prompt in prompts]
        return [" 8" if number == 3 else f" {number**2}" for number in numbers]


def test_the_evaluation_is_scored() -> None:
    class Module:
        """The example's functions."""

    squares: Any = Module()
    found = namespace_after("train/evaluate/squares.py", "train.evaluate.humaneval")
    for name in ("load_problems", "stop_strings", "build_program"):
        setattr(squares, name, found[name])
    command = read_command(Evaluate, ["run=x", "task=humaneval"])
    problems = {problem["task_id"]: problem for problem in squares.load_problems(command)}
    sampling = type("Sampling", (), {"seed": 1, "temperature": 0.2})()
    batch = [{"task_id": name, "sample": 0} for name in ("square_2", "square_3")]
    done = complete_batch(squares, problems, Answers(), sampling, batch)  # type: ignore[arg-type]
    programs = [squares.build_program(problems[one["task_id"]], one["completion"]) for one in done]
    assert [run_program(program, Limits(300, sandbox=ALLOWED)).passed for program in programs] == [True, False]


def test_the_evaluation_s_defaults_are_settings() -> None:
    text = FILES["conf/command/evaluate/squares.yaml"]
    assert set(OmegaConf.create(text)) <= {field.name for field in fields(Evaluate)}
    assert all("#" in line for line in text.splitlines())
