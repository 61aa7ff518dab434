"""pass@k against its definition."""

from fractions import Fraction
from math import comb

import pytest

from train.evaluate.pass_at_k import mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 40, 200])
def test_it_is_the_unbiased_estimator(n: int) -> None:
    for c in range(n + 1):
        for k in {1, 2, n // 2, n} - {0}:
            if k <= n:
                exact = 1 - Fraction(comb(n - c, k), comb(n, k))
                assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


def test_problems_count_alike() -> None:
    assert mean_pass_at_k([[True, True], [False] * 10], 1) == 0.5


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0)])
def test_what_has_no_meaning_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(n, c, k)
