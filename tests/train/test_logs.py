"""What reaches the terminal, and what each rank's file."""

import logging
from pathlib import Path

import pytest

from conf.run_folder import LOGS
from train.logs import LOGGER, close_log, log_failure, open_log


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / LOGS).mkdir()
    return tmp_path


def test_rank_0_has_everything_with_time_and_level(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_log(run, 0)
    LOGGER.info("stage nl")
    LOGGER.warning("slow")
    close_log()
    LOGGER.info("after")
    assert capsys.readouterr().out == "stage nl\nwarning: slow\nafter\n"
    first, second = (run / LOGS / "rank_0.log").read_text().splitlines()
    assert first.endswith("INFO rank 0: stage nl") and second.endswith("WARNING rank 0: slow")


def test_another_rank_s_file_holds_its_failure_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / LOGS / "rank_3.log"
    open_log(run, 3)
    LOGGER.info("stage nl")
    assert not path.exists()
    with pytest.raises(ZeroDivisionError) as raised, log_failure():
        raise ZeroDivisionError("by 0")
    assert raised.value.__notes__ == [f"its stack is in {path}"]
    text = path.read_text()
    assert "ERROR rank 3: ZeroDivisionError on process" in text and "Traceback" in text
    assert capsys.readouterr().err == "", "stderr has one line, written elsewhere"
    assert [type(handler).__name__ for handler in LOGGER.handlers] == ["_Terminal"]


def test_a_full_disk_does_not_stop_the_log(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_log(run, 0)

    def full(self: logging.StreamHandler, record: logging.LogRecord) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            self.handleError(record)

    monkeypatch.setattr(type(LOGGER.handlers[1]), "emit", full)
    LOGGER.info("goes on")
    close_log()
