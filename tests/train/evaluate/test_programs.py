"""Samples and results are written as they come, and none is made twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from parallel.mesh import single_process_mesh
from tests.train.evaluate.cases import ALLOWED
from train.evaluate.programs import generate_samples, run_samples, sample_key
from train.evaluate.sandbox import Limits

MESH = single_process_mesh()
WANTED = [{"task_id": task, "sample": index} for task in ("a", "b") for index in range(3)]


def test_samples_resume_from_the_file(tmp_path: Path) -> None:
    path, asked = tmp_path / "samples.jsonl", []

    def complete(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked.append(len(batch))
        return [{**row, "completion": f"{row['task_id']}{row['sample']}"} for row in batch]

    whole = generate_samples(path, WANTED, 4, complete, MESH, "sampling")
    assert sum(asked) == 6 and max(asked) <= 4 and [row["completion"] for row in whole][:3] == ["a0", "a1", "a2"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:9])  # killed while it wrote the third
    asked.clear()
    assert generate_samples(path, WANTED, 4, complete, MESH, "sampling") == whole
    assert sum(asked) == 4
    assert {sample_key(json.loads(line)) for line in path.read_text().splitlines()} == set(map(sample_key, WANTED))


def test_programs_are_run_once_and_counted_by_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, asked = tmp_path / "results.jsonl", []

    def program(row: dict[str, Any]) -> str:
        asked.append(row)
        return "x = 1" if row["task_id"] == "a" else "raise ValueError('no')"

    passed = {"a": [True] * 3, "b": [False] * 3}
    for expected in (6, 0):
        asked.clear()
        assert run_samples(path, WANTED, program, Limits(300, sandbox=ALLOWED), 2, MESH, "running") == passed
        assert len(asked) == expected
    results = [json.loads(line) for line in path.read_text().splitlines()]
    assert results[0] == {"task_id": "a", "sample": 0, "passed": True, "result": "passed"}
    assert "no" in results[-1]["result"] or "ValueError" in results[-1]["result"]
