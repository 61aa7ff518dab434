"""A run's files: written whole or not at all, read though the last line was cut off."""

from pathlib import Path

import pytest

from conf import run_folder


def test_a_folder_knows_its_run_and_its_stages(tmp_path: Path) -> None:
    assert not run_folder.is_run_folder(tmp_path)
    (tmp_path / "config.yaml").touch()
    stage = run_folder.stage_folder(tmp_path, "nl")
    stage.mkdir(parents=True)
    assert run_folder.is_run_folder(tmp_path) and run_folder.is_stage_folder(stage)
    (stage / "weights").mkdir()
    assert not run_folder.is_finished(tmp_path, "nl"), "its evaluation is missing"
    run_folder.write_json(stage / "evaluation.json", {})
    assert run_folder.is_finished(tmp_path, "nl")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder/file.json"
    run_folder.write_json(path, [1])
    with pytest.raises(ZeroDivisionError), run_folder.open_atomic(path) as file:
        file.write("half")
        _ = 1 / 0
    assert run_folder.read_json(path) == [1] and [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_records_survive_a_last_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / run_folder.METRICS
    run_folder.append_records(path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "bits": 1}])
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in run_folder.read_metrics(tmp_path)] == [1, 2, 2]
    assert run_folder.newest_step(tmp_path) == {"step": 2, "loss": 1.5}
    assert run_folder.newest_speed(tmp_path) is None
    run_folder.repair_records(path)
    assert path.read_text().endswith("}\n")


def test_the_tracker_is_resumed_by_folder_and_stage() -> None:
    ids = {run_folder.wandb_id(run, stage) for run in ("/a", "/b") for stage in ("nl", "mono")}
    assert len(ids) == 4 and run_folder.wandb_id("/a", "nl") in ids
