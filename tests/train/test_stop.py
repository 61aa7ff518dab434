"""A run is asked to stop by a signal or by a file, and by nothing that was there before."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.run_lock import OWNER, stop_file
from train.stop import SIGNALS, StopSignal


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    yield StopSignal()
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_remembered(stop: StopSignal, number: signal.Signals) -> None:
    assert not stop.received
    os.kill(os.getpid(), number)
    assert stop.received and stop.received


def test_a_file_of_its_launcher_stops_it_whenever_it_was_made(
    stop: StopSignal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that came while the process was starting; never another launch's."""
    monkeypatch.setenv(OWNER, "mine")
    stop_file(tmp_path, "other").touch()
    stop.watch(tmp_path)
    assert not stop.received
    stop_file(tmp_path, "mine").touch()
    assert stop.received
    early = StopSignal()
    early.watch(tmp_path)
    assert early.received
