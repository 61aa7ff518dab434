"""A run is asked to stop by a signal or by a file, and by nothing that was there before."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_a_file_that_is_made_later_stops_it(stop: StopSignal, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()  # left by a run before
    stop.watch(tmp_path / "stop")
    assert not stop.received
    (tmp_path / "stop").touch()
    assert stop.received
