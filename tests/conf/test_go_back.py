"""Going back drops what later steps recorded of weights that are discarded, and keeps what they took."""

from pathlib import Path

from conf.go_back import drop_after, spent
from conf.run_folder import append_records, read_metrics

ROWS = [
    {"stage": "nl", "step": 4, "seconds": 40.0, "device_seconds": 320.0, "energy_joules": None},
    {"stage": "nl", "step": 9, "seconds": 90.0, "device_seconds": 720.0, "energy_joules": 9e3, "seconds_data": 1.0},
    {"stage": "nl", "step": 8, "humaneval/pass@1": 0.5, "seconds": 95.0, "device_seconds": 760.0},
    {"stage": "multi", "step": 9, "seconds": 7.0},
]
TOOK = {"seconds": 95.0, "device_seconds": 760.0, "energy_joules": 9e3, "seconds_data": 1.0}


def test_what_later_steps_recorded_goes_and_what_they_took_stays(tmp_path: Path) -> None:
    append_records(tmp_path / "metrics.jsonl", ROWS)
    evaluations = tmp_path / "stages/nl/evaluations"
    for name in ("humaneval_step_000000004", "humaneval_step_000000008", "mbpp_step_000000008", "my_step_by_step"):
        (evaluations / name).mkdir(parents=True)
        (evaluations / name / "samples.jsonl").touch()
    (evaluations / "humaneval.json").touch()
    assert spent(tmp_path, "nl") == TOOK
    drop_after(tmp_path, "nl", 4)
    assert read_metrics(tmp_path) == [ROWS[0], ROWS[3]]
    left = {path.name for path in evaluations.iterdir()}
    assert left == {"humaneval_step_000000004", "my_step_by_step", "humaneval.json"}
    assert spent(tmp_path, "nl") == TOOK
    append_records(tmp_path / "metrics.jsonl", [{**ROWS[0], "step": 5, "seconds": 105.0, "device_seconds": 840.0}])
    drop_after(tmp_path, "nl", 0)
    assert spent(tmp_path, "nl") == {**TOOK, "seconds": 105.0, "device_seconds": 840.0}
    assert spent(tmp_path, "multi") == {"seconds": 7.0} and spent(tmp_path, "mono") == {}
