"""What a training process reports about itself: to the terminal, and with time and level to files in the run's folder.

The main process logs to stdout and to `logs/rank_0.log`. Any other process logs only its failure, to `logs/rank_N.log`.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from conf.run_folder import LOGS

LOGGER = logging.getLogger("codegen")
FORMAT = "%(asctime)s %(levelname)s rank %(rank)s: %(message)s"


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to the present `sys.stdout`, which a caller may have replaced; errors are left to stderr's one line."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.addFilter(lambda record: record.levelno < logging.ERROR)

    def format(self, record: logging.LogRecord) -> str:
        """The message, after `warning: ` where it is one."""
        return ("warning: " if record.levelno >= logging.WARNING else "") + record.getMessage()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line and flush it."""
        self.stream = sys.stdout
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that the record met, such as a closed stdout, as `print` would."""
        raise


class _File(logging.FileHandler):
    """A log file. A full disk does not stop it: what cannot be saved on it reports that."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the record out."""


LOGGER.addHandler(_Terminal())
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False  # libraries configure the root logger


def open_log(run: Path, rank: int) -> None:
    """Log to `logs/rank_<rank>.log` of the run's folder as well: everything on rank 0, failures on other ranks."""
    close_log()
    handler = _File(run / LOGS / f"rank_{rank}.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT, defaults={"rank": rank}))
    handler.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    LOGGER.addHandler(handler)


def close_log() -> None:
    """Close the log file, where one is open."""
    for handler in LOGGER.handlers[1:]:
        LOGGER.removeHandler(handler)
        handler.close()


@contextmanager
def log_failure() -> Iterator[None]:
    """Write an exception that leaves the block to this rank's log file, with its traceback, and raise it again.

    A note on it says which file that is.
    """
    try:
        yield
    except Exception as error:
        for file in [handler for handler in LOGGER.handlers if isinstance(handler, _File)]:
            LOGGER.error("%s on process %d", type(error).__name__, os.getpid(), exc_info=error)
            error.add_note(f"its stack is in {file.baseFilename}")
        raise
    finally:
        close_log()
