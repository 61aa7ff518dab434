"""Early stopping: a stage ends when its validation gets no better, and its result is the best it had."""

import json
from pathlib import Path

import pytest

from conf.run_folder import read_metrics, write_json
from tests.train.test_loop import command, launch, weights, write_corpora
from train.best import forget_after

RATE = "stages.mono.peak_learning_rate=1e-12"  # too small to change a weight: no evaluation is better than the first


def test_a_stage_ends_with_its_best_weights_when_it_gets_no_better(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    lengths = ["stages.mono.epochs=8", "stages.mono.patience=2", "evaluation.every=2", "run.save_every=3"]
    lengths.append("layout.micro_batch_size=auto")
    words = command(tmp_path, "early", "stage=mono", RATE, "stages.mono.end_learning_rate=0", *lengths)
    dropped = ("stages.nl", "stages.multi", "stages.mono.steps", "stages.mono.warmup", "run.save_every=1")
    words = [word for word in words if not word.startswith(dropped) or word == "run.save_every=3"]
    done = launch(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "micro-batches of 8" in done.stdout, "all of a replica's share fits"
    run = tmp_path / "runs/early"
    assert "2 evaluations without a better one on mono; it ends, with the weights of step 2" in done.stdout
    evaluation = json.loads((run / "stages/mono/evaluation.json").read_text())
    rows = read_metrics(run)
    assert json.loads((run / "stages/mono/lineage.json").read_text())["steps"] == 2
    assert evaluation["step"] == 2 and max(row["step"] for row in rows) == 6
    scores = next(row for row in rows if row["step"] == 2 and "bits_per_byte/mono" in row)
    assert evaluation["bits_per_byte"]["mono"] == scores["bits_per_byte/mono"]
    assert weights(run, "mono") and not (run / "stages/mono/best").exists()
    assert (run / "stages/mono/samples.md").is_file()

    again = launch(*words)
    assert again.returncode == 0 and "is finished: mono" in again.stdout

    before = weights(run, "mono")
    longer = launch(*[word.replace("patience=2", "patience=3") for word in words], "run.extend=true")
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert "3 evaluations without a better one on mono; it ends, with the weights of step 2" in longer.stdout
    assert max(row["step"] for row in read_metrics(run)) == 12, "6 steps, and three evaluations after the last save"
    assert weights(run, "mono") == before, "they are still the best"
    assert json.loads((run / "stages/mono/evaluation.json").read_text()) == evaluation


@pytest.mark.parametrize(
    ("record", "left"),
    [
        ({"step": 40, "seen": 60, "no_better": 1}, {"step": 40, "seen": 50, "no_better": 1}),
        ({"step": 20, "seen": 60, "no_better": 4}, {"step": 20, "seen": 50, "no_better": 3}),
        ({"step": 20, "seen": 30, "no_better": 1}, {"step": 20, "seen": 30, "no_better": 3}),
        ({"step": 60, "seen": 60, "no_better": 0}, None),
        ({"step": 60, "seen": 60, "no_better": 1, "taken": True, "extended_at": 30}, {"seen": 50, "no_better": 0}),
    ],
)
def test_a_return_to_a_checkpoint_forgets_what_was_found_later(
    record: dict[str, int], left: dict[str, int] | None, tmp_path: Path
) -> None:
    (tmp_path / "best").mkdir()
    write_json(tmp_path / "best.json", record)
    forget_after(tmp_path, 50, range(10, 70, 10))
    assert (tmp_path / "best").exists() == (left is not None)
    if left is None:
        assert not (tmp_path / "best.json").exists()
    else:
        assert json.loads((tmp_path / "best.json").read_text()) == {**record, **left}
