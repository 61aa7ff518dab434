"""The record of what was started for a run."""

from pathlib import Path

import pytest

from launch.jobs import JOBS, add_job, read_jobs


def test_jobs_are_kept_in_order_with_their_exit_codes(tmp_path: Path) -> None:
    for suffix in ("exit", "cancel", "tries", "nodes"):  # of an earlier attempt
        (tmp_path / f"nl.{suffix}").write_text("1\n")
    add_job(tmp_path, "slurm", "17", ["nl"], "login", "nl.log", "nl.exit")
    add_job(tmp_path, "local", "4711", ["nl", "multi"], "laptop", "local.log", "local.exit")
    assert [path.name for path in tmp_path.iterdir()] == [JOBS]
    first, second = read_jobs(tmp_path)
    assert (first.kind, first.id, first.stages, first.exit_code(tmp_path)) == ("slurm", "17", ["nl"], None)
    assert (second.kind, second.id, second.host) == ("local", "4711", "laptop") and first.started <= second.started
    for text, code in (("", None), ("0\n", 0), ("-15", -15), ("Killed", None)):
        (tmp_path / "nl.exit").write_text(text)
        assert first.exit_code(tmp_path) == code


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '[{"kind": "slurm"}]'])
def test_a_damaged_record_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / JOBS).write_text(content)
    assert read_jobs(tmp_path) == []
