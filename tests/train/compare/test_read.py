"""Paths and globs become stages; errors name the damaged file."""

import json
import os
from pathlib import Path

import pytest

from conf.errors import ConfigError
from conf.run_folder import write_json
from tests.train.compare_runs import write_run
from train.compare.read import NoRecords, find_runs, read_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs", "one", records=10)


def test_a_run_a_stage_and_a_glob_are_found(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs", "two", records=10)
    (tmp_path / "runs" / "no-run").mkdir()
    assert find_runs(str(run)) == [run]
    assert find_runs(f"{tmp_path}/runs/*") == [run, other]
    assert find_runs(f"{run}/stages/m*") == [run / "stages" / "mono", run / "stages" / "multi"]
    assert [stage.name for stage in read_folder(run)] == ["nl", "multi", "mono"]
    assert [stage.name for stage in read_folder(run / "stages" / "multi")] == ["multi"]
    assert read_folder(run)[1].steps == (100, 100)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nowhere", "does not exist"),
        ("no*where", "matches no run"),
        ("runs", "holds no config.yaml"),
        ("runs/one/metrics.jsonl", "holds no config.yaml"),
        ("runs/one/stages/other", "is no stage of its run; there are nl, multi, mono"),
    ],
)
def test_what_is_no_run_is_refused(run: Path, tmp_path: Path, word: str, said: str) -> None:
    (run / "stages" / "other").mkdir()
    with pytest.raises(ConfigError, match=said):
        for folder in find_runs(f"{tmp_path}/{word}"):
            read_folder(folder)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", ""),
        ("config.yaml", "model: {n_layer: ["),
        ("config.yaml", "- 1\n- 2\n"),
        ("config.yaml", "\x00\x01"),
        ("stages/mono/lineage.json", '{"run": '),
        ("stages/mono/lineage.json", '{"parent": 3}'),
        ("stages/mono/evaluation.json", ""),
        ("stages/mono/evaluation.json", "[1]"),
        ("stages/mono/evaluation.json", '{"bits_per_byte": [1]}'),
        ("stages/mono/evaluations/humaneval.json", '{"pass_at_k": {"1": "high"}}'),
        ("stages/mono/evaluations/mtpb.json", "nothing"),
        ("metrics.jsonl", '{"stage": "nl", "step": 1, "to\n{"stage": "nl", "step": 2, "tokens": 2, "loss": 1}\n'),
        ("metrics.jsonl", '{"stage": "nl", "step": "x", "tokens": 2}\n'),
        ("metrics.jsonl", '{"stage": "nl", "step": 1, "tokens": 2, "loss": "low"}\n'),
        ("metrics.jsonl", '{"stage": "nl", "step": 1, "tokens": NaN, "loss": 1}\n'),
        ("metrics.jsonl", "[1]\n{}\n"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(run: Path, file: str, text: str) -> None:
    (run / file).parent.mkdir(exist_ok=True)
    (run / file).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_folder(run)
    assert str(run / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_last_line_that_is_cut_off_is_left_out(run: Path) -> None:
    before = len(read_folder(run)[2].records)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "mono", "step": 101, "tok')
    assert len(read_folder(run)[2].records) == before


def test_a_run_without_records_is_told_from_one_that_is_none(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(NoRecords, match="has no records yet"):
        read_folder(run)


def test_evaluations_are_scores(run: Path) -> None:
    folder = run / "stages" / "mono" / "evaluations"
    write_json(folder / "humaneval.json", {"pass_at_k": {"10": 0.3, "1": 0.1}})
    write_json(folder / "mtpb.json", {"pass_rate": 0.2})
    write_json(folder / "perplexity.json", {"mono": {"perplexity": 3.5}, "note": "text"})
    scores = read_folder(run)[2].scores
    assert list(scores)[-4:] == ["humaneval/pass@1", "humaneval/pass@10", "mtpb", "perplexity/mono/perplexity"]
    assert scores["humaneval/pass@10"] == 0.3
    write_json(folder / "mtpb.json", {"pass_rate": float("nan")})
    assert "mtpb" not in read_folder(run)[2].scores


def test_a_stage_that_has_not_ended_is_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path, "going", records=10, upto=4)
    stage = read_folder(run)[-1]
    assert (stage.finished, stage.recent, stage.steps) == (False, True, (40, 100))
    os.utime(run / "metrics.jsonl", (0, 0))
    assert not read_folder(run)[-1].recent
    rows = [line for line in (run / "metrics.jsonl").read_text().splitlines(True) if json.loads(line)["stage"] == "nl"]
    (run / "metrics.jsonl").write_text("".join(rows))
    assert not read_folder(run)[-1].finished, "the stages after nl have not begun"
    assert read_folder(run / "stages" / "nl")[-1].finished
