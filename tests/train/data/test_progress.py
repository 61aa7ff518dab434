"""The progress of a preparation: a bar on a terminal, lines elsewhere, both with the time that is left."""

import os
import re
import subprocess
import sys

import pytest

from train.data.progress import Done, progress_bar, seconds_left

PROGRAM = """
from train.data.progress import Done, progress_bar
with progress_bar("tokenizing", print) as update:
    update(Done(0.5, 0.0, 0.0, 3_000_000, 1234, 567_890))
"""


def test_the_time_left_counts_what_was_made_and_not_what_was_found():
    assert seconds_left(Done(0.5, 0.5, 0.1, 0, 0, 0), 10) is None
    assert seconds_left(Done(0.6, 0.5, 0.0, 0, 0, 0), 10) == pytest.approx(40)
    assert seconds_left(Done(0.6, 0.5, 0.2, 0, 0, 0), 10) == pytest.approx(15), "half of what runs is done"
    assert seconds_left(Done(1.0, 0.5, 0.0, 0, 0, 0), 10) == 0


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now, lines = [100.0], []
    monkeypatch.setattr("train.data.progress.time.monotonic", lambda: now[0])
    with progress_bar("reading", lines.append) as update:
        for second in range(1, 101):
            now[0] = 100.0 + second
            update(Done(second / 200, 0.0, 0.0, 1_000_000 * second, 10 * second, 300 * second))
    assert lines == [
        "data: reading: 8%, 150 documents, 15.0 MB, 4,500 tokens, about 3m05s left",
        "data: reading: 38%, 750 documents, 75.0 MB, 22,500 tokens, about 2m05s left",
    ]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_terminal_shows_a_bar():
    main, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", PROGRAM], stdout=terminal, env=environment, check=True, timeout=60)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(main)
    assert b"tokenizing" in shown
    assert re.search(rb"1,234 documents, 3.0 MB, 567,890 tokens, about \d+m\d\ds left", shown)
