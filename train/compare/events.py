"""What health.jsonl tells the comparison of a stage: steps that were not taken, spikes, returns to a checkpoint."""

import json
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import Any

from conf.run_folder import complete_lines

EVENTS = "health_events"  # a record's number of events of its stage up to its step
Event = tuple[int, str, str]  # step, kind, words
KINDS = {"not taken": "steps not taken", "spike": "spikes", "rewind": "returns to a checkpoint"}


def read_events(path: Path) -> list[Event]:
    """(step, kind, words) of each event, oldest first; damaged lines are passed over. A return has its cause's step."""
    found: list[Event] = []
    for line in complete_lines(path):
        try:
            row = json.loads(line)
            step = found[-1][0] if row["step"] is None and found else int(row["step"] or 0)
            found.append((step, str(row["event"]), str(row["what"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def count_events(records: list[dict[str, Any]], events: list[Event]) -> list[dict[str, Any]]:
    """`records` of training steps with the number of events up to each; as they are where there is none."""
    if not events:
        return records
    steps = sorted(step for step, *_ in events)
    return [{**row, EVENTS: bisect_right(steps, row["step"])} if "loss" in row else row for row in records]


def describe_events(stage: str, events: list[Event]) -> str:
    """The events of a stage in one line: how many of each kind, and the last one."""
    counts = Counter(KINDS.get(kind, kind) for _, kind, _ in events)
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    step, _, words = events[-1]
    return f"{stage} had {listed}; the last, step {step}: {words}"
