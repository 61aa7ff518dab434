"""Tables fit the terminal and lose nothing in it; in a pipe every row is one line."""

import sys

import pytest
from rich.table import Table

from conf.terminal import table_console

NAME = "a-name-of-a-run-" * 20


@pytest.mark.parametrize("terminal", [True, False])
def test_a_name_is_whole_in_a_pipe_and_folded_in_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # no codes for bold
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    table = Table(box=None)
    table.add_column("run", overflow="fold")
    table.add_row(NAME)
    table_console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert (max(map(len, lines)) <= 80) is terminal
    assert "".join(line.strip() for line in lines[1:]) == NAME and (len(lines) == 2) is not terminal
