"""Processes of one machine share its cores out."""

import pytest

from train.cores import own_cores


@pytest.mark.parametrize(
    ("cores", "size", "shares"),
    [
        ([0, 1, 2, 3], 1, [[0, 1, 2, 3]]),
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 2, 4, 6, 8], 2, [[0, 2], [4, 6, 8]]),
        ([3, 7], 2, [[3], [7]]),
        ([0, 1], 4, [[0], [1], [0], [1]]),
    ],
)
def test_each_rank_has_its_share(cores: list[int], size: int, shares: list[list[int]]) -> None:
    assert [own_cores(cores, rank, size) for rank in range(size)] == shares
