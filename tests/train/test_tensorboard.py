"""TensorBoard's own reader finds the records in the files, once each, after a kill too."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.tensorboard import TensorBoard

ROWS: list[dict[str, Any]] = [
    {"stage": "nl", "step": 10, "loss": 2.5, "skipped": False, "rank_memory_bytes": [1, 2], "tokens": 640},
    {"stage": "nl", "step": 20, "loss": None, "skipped": True, "rank_memory_bytes": [3, 4], "tokens": 1280},
    {"stage": "nl", "step": 20, "bits_per_byte/nl": 1.25, "tokens": 1280},
]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_what_is_written_is_read_by_tensorboard(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "nl", [])
    for row in ROWS:
        board.write(row["step"], {key: value for key, value in row.items() if key not in ("stage", "step")})
    found = curves(tmp_path / "nl")  # before it is closed: a kill loses nothing
    assert found == {
        "loss": [(10, 2.5)],
        "rank_memory_bytes/0": [(10, 1.0), (20, 3.0)],
        "rank_memory_bytes/1": [(10, 2.0), (20, 4.0)],
        "tokens": [(10, 640.0), (20, 1280.0), (20, 1280.0)],
        "bits_per_byte/nl": [(20, 1.25)],
    }
    board.close()


def test_switched_on_later_it_gets_the_records_so_far_and_a_resumed_run_each_step_once(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "nl", ROWS[:1])
    board.write(20, {"loss": 2.25})
    board.write(30, {"loss": 9.0})  # killed before metrics.jsonl had it: it is trained and written again
    again = TensorBoard(tmp_path / "nl", [*ROWS[:1], {"stage": "nl", "step": 20, "loss": 2.25}])
    again.write(30, {"loss": 2.0})
    assert curves(tmp_path / "nl")["loss"] == [(10, 2.5), (20, 2.25), (30, 2.0)]
    board.close()
    again.close()
