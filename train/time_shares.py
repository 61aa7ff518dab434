"""Where the time of a trace of torch's profiler goes: matmul, attention, elementwise, collectives, idle."""

import gzip
import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEP = "optimizer step"  # the trace's mark around each step; time between steps does not count
KINDS = ("attention", "matmul", "elementwise", "collectives", "idle")
TOP = 12  # operations that are listed

# The first pattern that is found in a kernel's name is its kind. Inductor's kernels name every operation fused into
# them, so those that are no templates are elementwise whatever they are called.
KERNELS = (
    ("collectives", r"nccl"),
    ("elementwise", r"^triton_(?!tem)"),
    ("attention", r"flash|fmha|attention|sdpa|attn"),
    ("matmul", r"nvjet|gemm|gemv|cutlass|cublas|xmma|splitk|^triton_tem"),
    ("elementwise", r""),
)
# And in an operation's on a CPU. What matches none of them only calls others.
OPERATIONS = (
    ("collectives", r"^(c10d::|gloo:|mpi:|ccl:)"),
    ("attention", r"^aten::.*(scaled_dot_product|flash_attention|efficient_attention)|^codegen::.*attention"),
    ("matmul", r"^(aten|mkl|mkldnn|onednn)::.*(mm|matmul|linear|mv|dot)(_out|_backward)?$"),
    ("elementwise", r"^(aten|fused|quantized)::|^graph_\d+_|CompiledFxGraph"),
)

Operation = tuple[str, str]  # kind, name


@dataclass
class TimeShares:
    """The time of one process's steps, in microseconds.

    spent: on each of `KINDS`, adding up to `total`; collectives: under way, `spent` only those that nothing ran beside;
    operations: each with (time, calls), the longest first.
    """

    steps: int
    total: float
    spent: dict[str, float]
    collectives: float
    operations: dict[Operation, tuple[float, int]]


@dataclass(frozen=True)
class _Interval:
    start: float
    end: float
    kind: str
    name: str


def read_trace(path: Path) -> TimeShares:
    """The shares of a trace, .json or .json.gz: of the GPU's time where it has kernels, else of the CPU's.

    Errors: `ValueError` where it marks no step.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    complete = [event for event in events if event.get("ph") == "X"]
    steps = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in complete
        if event["name"] == STEP and event.get("cat") == "user_annotation"
    )
    if not steps:
        raise ValueError(f"{path} has no event {STEP!r}")
    intervals = list(_kernels(complete)) or list(_operations(complete))
    return _shares(steps, intervals)


def _kernels(events: list[dict[str, Any]]) -> Iterator[_Interval]:
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            name = event["name"]
            yield _Interval(event["ts"], event["ts"] + event["dur"], _kind(name, KERNELS), name)


def _operations(events: list[dict[str, Any]]) -> Iterator[_Interval]:
    for event in events:
        if event.get("cat") in ("cpu_op", "user_annotation") and (kind := _kind(event["name"], OPERATIONS)):
            yield _Interval(event["ts"], event["ts"] + event["dur"], kind, event["name"])


def _kind(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    return next((kind for kind, pattern in patterns if re.search(pattern, name, re.IGNORECASE)), "")


def _shares(steps: list[tuple[float, float]], intervals: list[_Interval]) -> TimeShares:
    """Each instant belongs to one interval: of those under way, the first in `KINDS`, and of these the innermost."""
    spent, times, calls = dict.fromkeys(KINDS, 0.0), defaultdict[Operation, float](float), Counter[Operation]()
    waiting = sorted(intervals, key=lambda each: each.start, reverse=True)
    active: list[tuple[int, float, int, _Interval]] = []
    order = 0
    for start, end in steps:
        now = start
        while now < end:
            while waiting and waiting[-1].start <= now:
                each = waiting.pop()
                order += 1
                if each.end > now:
                    heapq.heappush(active, (KINDS.index(each.kind), -each.start, -order, each))
                    calls[each.kind, each.name] += 1
            while active and active[0][-1].end <= now:
                heapq.heappop(active)
            current = active[0][-1] if active else None
            then = min(waiting[-1].start if waiting else end, current.end if current else end, end)
            spent[current.kind if current else "idle"] += then - now
            if current:
                times[current.kind, current.name] += then - now
            now = then
    within = sum(_overlap(steps, [each for each in intervals if each.kind == "collectives"]))
    return TimeShares(
        len(steps),
        sum(end - start for start, end in steps),
        spent,
        within,
        {each: (time, calls[each]) for each, time in sorted(times.items(), key=lambda item: -item[1])},
    )


def _overlap(steps: list[tuple[float, float]], intervals: list[_Interval]) -> Iterator[float]:
    """The lengths within the steps of what `intervals`, which may overlap each other, cover."""
    for start, end in steps:
        reached = start
        for each in sorted(intervals, key=lambda each: each.start):
            low, high = max(each.start, reached), min(each.end, end)
            if high > low:
                yield high - low
                reached = high


def time_table(found: dict[int, TimeShares]) -> str:
    """Markdown: a row for each rank, and what takes the most time of the first."""
    titles = ["rank", "step, ms", *(f"{kind}, %" for kind in KINDS), "collectives beside the rest, %"]
    lines = [_row(titles), _row(["---:"] * len(titles))]
    for rank, shares in found.items():
        hidden = shares.collectives - shares.spent["collectives"]
        parts = [*(shares.spent[kind] for kind in KINDS), hidden]
        percent = [f"{part / shares.total:.1%}".rstrip("%") for part in parts]
        lines.append(_row([str(rank), f"{shares.total / shares.steps / 1000:.1f}", *percent]))
    rank, first = next(iter(found.items()))
    lines += ["", _row([f"of rank {rank}", "kind", "%", "calls a step"]), _row(["---", "---", "---:", "---:"])]
    for (kind, name), (time, calls) in list(first.operations.items())[:TOP]:
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        cells = [f"`{shown}`", kind, f"{time / first.total:.1%}".rstrip("%"), f"{calls / first.steps:g}"]
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
