"""A rank that is stopped gives no signs of life; one that has not come, has ended or has just been woken is none."""

import os
import time
from pathlib import Path

from train.signs import Signs


def test_the_first_and_the_last_rank_miss_one_and_tell_the_others(tmp_path: Path) -> None:
    signs = [Signs(tmp_path, rank, 5, 1000.0) for rank in range(4)]  # the last has not come
    assert not any(each.lack(100.0) for each in signs)
    assert signs[0].nodes() == [*[signs[0].own.read_text()] * 4, ""]
    os.utime(signs[2].own, (time.time() - 500,) * 2)
    assert [signs[rank].lack(100.0) for rank in (0, 1, 3)] == [True, False, False]
    assert 500 <= signs[0].silence() < 600
    (tmp_path / "rank_0.txt").touch()
    assert [signs[rank].lack(100.0) for rank in (1, 3)] == [True, True]
    signs[0].forget()
    assert not signs[0].lack(100.0), "it was stopped itself, and the others may be about to be woken"


def test_who_has_ended_and_what_an_earlier_try_left_are_not_missed(tmp_path: Path) -> None:
    (tmp_path / "rank_1.alive").write_text("n1")
    os.utime(tmp_path / "rank_1.alive", (time.time() - 100_000,) * 2)
    first, last = Signs(tmp_path, 0, 3, 1000.0), Signs(tmp_path, 2, 3, 1000.0)
    assert not first.lack(100.0) and first.nodes()[1] == ""
    os.utime(last.own, (time.time() - 500,) * 2)
    assert first.lack(100.0)
    last.end()
    assert not first.lack(100.0)
