"""The progress bar: counts on a terminal, silence elsewhere."""

import os
import subprocess
import sys

from train.data.progress import progress_bar

PROGRAM = """
from train.data.progress import progress_bar
with progress_bar("nl: tokenizing", 4_000_000) as update:
    update(3_000_000, 1234, 567_890)
"""


def test_nothing_is_printed_where_there_is_no_terminal(capsys):
    with progress_bar("nl: reading", None) as update:
        update(1_000_000, 10)
        update(2_000_000, 20, 300)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_terminal_shows_documents_bytes_and_tokens():
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
    assert b"nl: tokenizing" in shown
    assert b"1,234 documents, 3.0 MB, 567,890 tokens" in shown
