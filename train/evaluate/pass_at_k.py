"""pass@k: the probability that one of k samples passes, estimated from n of which c pass (arXiv 2107.03374)."""

from collections.abc import Sequence


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), without large numbers. Errors: ValueError unless 0 <= c <= n and 1 <= k <= n."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} in {n} samples is not defined")
    none_passes = 1.0
    for other in range(n - c + 1, n + 1):
        none_passes *= max(0.0, 1 - k / other)
    return 1 - none_passes


def mean_pass_at_k(passed: Sequence[Sequence[bool]], k: int) -> float:
    """The mean over problems; `passed` holds each problem's samples."""
    return sum(pass_at_k(len(samples), sum(samples), k) for samples in passed) / len(passed)
