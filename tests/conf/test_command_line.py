"""Flags, exit codes, and the one line on stderr of every kind of error."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.command_line import Command, run_command
from conf.errors import ConfigError, DataError, NodeError, UnreachableError, node_name
from tests.train.compare_runs import write_run

COMMAND = Command("python -m x", "[KEY=VALUE]", "Does x.", ("python -m x",), flags={"-f": "fast", "--to FILE": "where"})


def test_flags_are_told_from_the_other_arguments() -> None:
    assert COMMAND.split_flags(["a=1", "-f", "b"]) == ({"-f"}, ["a=1", "b"])
    assert COMMAND.split_flags(["--to", "out", "a=1"]) == ({"--to"}, ["a=1"])
    with pytest.raises(ConfigError, match="unknown option '-q'; there are -f, --to FILE"):
        COMMAND.split_flags(["-q"])
    with pytest.raises(ConfigError, match="'--to' takes one value; write --to FILE"):
        COMMAND.split_flags(["--to"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a=1 is wrong"), 2, "error: a=1 is wrong\n"),
        (DataError("no text"), 2, "error: no text\n"),
        (NodeError("n1 is full"), 3, "error: n1 is full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    assert run_command(fail, [], COMMAND) == code
    assert capsys.readouterr().err == line


def test_only_the_main_process_writes_what_all_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> int:
        raise error

    monkeypatch.setenv("RANK", "1")
    assert run_command(lambda argv: fail(NodeError("n1 is full")), []) == 3
    assert capsys.readouterr().err == ""
    assert run_command(lambda argv: fail(UnreachableError("no answer")), []) == 3
    assert capsys.readouterr().err == "error: no answer\n"
    assert run_command(lambda argv: fail(OSError(errno.ENOSPC, "no space left")), []) == 3
    assert "no space left; free some space, or choose" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: fail(ZeroDivisionError("by 0")), [])
    assert capsys.readouterr().err == f"error: rank 1 on {node_name()}: ZeroDivisionError: by 0\n"
    for message in (
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5043",
        "NCCL error: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting",
    ):
        with pytest.raises(RuntimeError):
            run_command(lambda argv, said=message: fail(RuntimeError(said)), [])
        assert capsys.readouterr().err.startswith(f"error: rank 1 on {node_name()} lost another rank: RuntimeError: ")
        lost = RuntimeError(f"in step 3:\n{message}")
        lost.add_note("its stack is in logs/rank_1.log")
        assert run_command(lambda argv, error=lost: fail(error), []) == 1, "no stack after the line"
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.endswith("; its stack is in logs/rank_1.log\n")


def test_an_action_s_code_is_the_command_s(tmp_path: Path) -> None:
    assert run_command(lambda argv: len(argv), ["a", "b"], COMMAND) == 2


def test_a_w_and_b_process_of_the_caller_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not be opened there stays there, and its id is refused from then on."""
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/tmp/wandb-1/socket")
    assert run_command(lambda argv: int("WANDB_SERVICE" in os.environ), []) == 0


@pytest.mark.parametrize("words", ["launch --help", "launch --info", "launch status root=ROOT", "train.compare ROOT/a"])
def test_a_reader_that_has_gone_ends_the_command_without_a_word(words: str, tmp_path: Path) -> None:
    """As `python -m launch --help | head -1` does, whatever prints: Python itself, Hydra's log, rich."""
    write_run(tmp_path, "a", stages="mono")
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", *words.replace("ROOT", str(tmp_path)).split()]
    root = Path(__file__).parents[2]
    reader, writer = os.pipe()
    os.close(reader)  # before there is anything to read: the command may be quick
    done = subprocess.run(command, cwd=root, env=variables, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_folders_of_ones_own_are_handed_on_as_a_setting(tmp_path: Path) -> None:
    command = Command("python -m x", "", "Does x.", (), groups=True)
    given, rest = command.split_flags(["-cd", str(tmp_path), "--config-dir=/", "a=1"])
    assert given == {"--config-dir"} and rest == ["a=1", f"hydra.searchpath=[file://{tmp_path},file:///]"]
    with pytest.raises(ConfigError, match="--config-dir nowhere is no folder"):
        command.split_flags(["--config-dir", "nowhere"])


@pytest.mark.parametrize(("flag", "said"), [("--cfg job", "  n_layer: 4\n"), ("--info", "    model: tiny:\n")])
def test_settings_and_where_they_come_from_are_printed(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command("python -m x", "", "Does x.", (), groups=True)
    assert run_command(lambda _: 1, [*flag.split(), "model=tiny"], command) == 0
    assert said in capsys.readouterr().out
