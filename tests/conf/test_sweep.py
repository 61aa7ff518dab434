"""`-m`: every combination of the values, of a run's settings (tests/launch/test_sweep.py) or a command's."""

from pathlib import Path

import pytest

from conf.command_line import Command, run_command
from conf.commands import Evaluate, read_command
from conf.sweep import combinations

COMMAND = Command(
    "python -m train.evaluate", "run=RUN", "Scores.", ("python -m train.evaluate run=a",), settings="evaluate"
)


def test_combinations_in_order_with_what_varies() -> None:
    assert combinations(["a=1,2", "b=x", "c=range(1,3)", "d=[5,6]"]) == [
        (["a=1", "b=x", "c=1", "d=[5,6]"], {"a": "1", "c": "1"}),
        (["a=1", "b=x", "c=2", "d=[5,6]"], {"a": "1", "c": "2"}),
        (["a=2", "b=x", "c=1", "d=[5,6]"], {"a": "2", "c": "1"}),
        (["a=2", "b=x", "c=2", "d=[5,6]"], {"a": "2", "c": "2"}),
    ]


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_command_runs_once_for_each_and_stops_at_a_failure(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[list[str]] = []

    def action(argv: list[str]) -> int:
        seen.append(argv)
        return 3 if "run=b" in argv else 0

    assert run_command(action, ["SOURCE", flag, "run=a,b,c", "task=mbpp"], COMMAND) == 3
    assert seen == [["SOURCE", "run=a", "task=mbpp"], ["SOURCE", "run=b", "task=mbpp"]]
    assert capsys.readouterr().out == "[1/3] run=a\n[2/3] run=b\n"
    assert run_command(action, [flag, "run=a"], COMMAND) == 2
    assert "no setting has several; write key=a,b" in capsys.readouterr().err


def test_a_folder_of_ones_own_has_defaults_for_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "command/evaluate"
    own.mkdir(parents=True)
    (own / "mbpp.yaml").write_text("samples: 7\n")
    (tmp_path / "command/evaluate.yaml").write_text("seed: 5\nsamples: 6\n")
    words = COMMAND.split_flags(["--config-dir", str(tmp_path), "run=a", "task=mbpp", "seconds=4"])[1]
    command = read_command(Evaluate, words)
    assert (command.samples, command.seed, command.seconds) == (7, 5, 4)
    assert read_command(Evaluate, [word for word in words if "mbpp" not in word] + ["task=humaneval"]).samples == 6
    for empty in ("none", "command"):
        (tmp_path / empty).mkdir(exist_ok=True)
    code = run_command(
        lambda argv: int(read_command(Evaluate, COMMAND.split_flags(argv)[1]) is None),
        ["--config-dir", str(tmp_path / "none"), "run=a", "task=mbpp"],
        COMMAND,
    )
    assert code == 2
    assert "none has no command/evaluate.yaml and no command/evaluate/mbpp.yaml" in capsys.readouterr().err
