"""The command: on a run that was really trained, and its error messages."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conf.run_folder import read_metrics
from tests.train.compare_runs import write_run
from tests.train.test_loop import command, write_corpora
from train.compare.__main__ import main
from train.wandb_run import flat

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three stages that was really trained, with TensorBoard, and a W&B server that refuses connections."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpora(folder)
    own = (
        "tracking.wandb=true",
        "tracking.wandb_seconds=1",
        "tracking.tensorboard=true",
        "cluster.processes_per_node=1",
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        words = command(folder, "real", *own)
        environment = os.environ | server
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("W&B's server cannot be used") == 1
    return folder / "runs" / "real"


def test_a_trained_run_is_compared_from_its_own_records(trained: Path, tmp_path: Path) -> None:
    kinds = ("csv", "json", "markdown", "html", "png")
    files = [word for kind in kinds for word in (f"--{kind}", f"{tmp_path}/{kind}")]
    words = [sys.executable, "-m", "train.compare", str(trained), *files]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "nl > multi > mono" in done.stdout
    assert all((tmp_path / kind).stat().st_size > 100 for kind in kinds)
    (line,) = csv.DictReader((tmp_path / "csv").open(newline=""))
    assert line["state"] == "finished"
    assert float(line["tokens"]) == 3 * 6 * 16 * 32
    assert float(line["device_hours"]) > 0
    evaluation = json.loads((trained / "stages/mono/evaluation.json").read_text())
    assert float(line["bits_per_byte/mono"]) == evaluation["bits_per_byte"]["mono"]


def test_tensorboard_reads_the_same_records(trained: Path) -> None:
    for stage in ("nl", "multi", "mono"):
        reader = EventAccumulator(str(trained / "tensorboard" / stage), size_guidance={"scalars": 0})
        reader.Reload()
        rows = [row for row in read_metrics(trained) if row["stage"] == stage]
        for key in ("loss", "learning_rate", "bits_per_byte/mono", "rank_tflops/0"):
            found = [(event.step, event.value) for event in reader.Scalars(key)]
            values = [(row["step"], flat(row)[key]) for row in rows if key in flat(row)]
            assert [step for step, _ in found] == [step for step, _ in values]
            assert [value for _, value in found] == pytest.approx([value for _, value in values], rel=1e-6)


def test_the_folders_of_offline_wandb_runs_stand_for_their_stages(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "json"
    for run in (trained, Path(shutil.copytree(trained, tmp_path / "moved", symlinks=True))):
        assert main([f"{run}/wandb/offline-run-*", "--json", str(file)]) == 0, capsys.readouterr().err
        runs = json.loads(file.read_text())["runs"]
        assert {entry["run"]: len(entry["stages"]) for entry in runs} == {"real/nl": 1, "real/multi": 2, "real/mono": 3}


def test_comparing_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys, train.compare.__main__; sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_options_reach_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, decay in enumerate((0.1, 0.2, 0.3)):
        write_run(tmp_path / "runs", f"run{number}", f"optimizer.weight_decay={decay}", level=2 + number, records=10)
    file = tmp_path / "json"
    words = [f"{tmp_path}/runs/*", "--sort", "-loss", "--filter", "optimizer.weight_decay>0.1", "--filter", "loss<20"]
    assert main([*words, "--loss", "4.5", "--smooth", "3", "--json", str(file)]) == 0
    value = json.loads(file.read_text())
    assert [run["run"] for run in value["runs"]] == ["run2", "run1"]
    assert (value["loss_to_reach"], value["smooth"]) == (4.5, 3)
    assert main([*words, "--no-chain", "--json", str(file)]) == 0
    assert len(json.loads(file.read_text())["runs"]) == 6
    assert "mean of the last 3 records" in " ".join(capsys.readouterr().out.split())


def test_files_are_named_as_in_other_commands_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "one", stages="nl", records=10)
    assert main([f"{tmp_path}/one", f"json={tmp_path}/out.json", "sort=-loss"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["runs"][0]["run"] == "one"
    assert f"json: {tmp_path}/out.json" in capsys.readouterr().out


def test_a_watch_waits_for_records_and_follows_until_the_runs_have_finished(tmp_path: Path) -> None:
    page, run = tmp_path / "page.html", write_run(tmp_path / "runs", "one", stages="nl", records=20)
    records, done = (run / "metrics.jsonl").read_text().splitlines(True), run / "stages/nl/evaluation.json"
    evaluation = done.read_text()
    (run / "metrics.jsonl").write_text("")
    done.unlink()
    words = [sys.executable, "-m", "train.compare", f"{tmp_path}/runs/*", "--html", str(page), "--watch", "0.2"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout
        assert "no records yet" in watch.stdout.readline() or "waiting" in watch.stdout.readline()
        (run / "metrics.jsonl").write_text("".join(records[:8]))
        while "1 not finished; again in 0.2 s" not in watch.stdout.readline():
            assert watch.poll() is None
        assert '"refresh":0.2' in page.read_text() and '"step":[10,20,30,40,50,60,70,80]' in page.read_text()
        (run / "metrics.jsonl").write_text("".join(records))
        done.write_text(evaluation)
        assert "0 not finished" in watch.stdout.read()
        assert watch.wait(60) == 0
    assert '"refresh":null' in page.read_text() and "180,190,200]" in page.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "does not exist"),
        (["one", "one"], "names {root}/one a second time"),
        (["one", "one/stages/../"], "a second time"),
        (["empty"], "has no records yet"),
        (["empt*"], "no records yet"),
        (["one", "--png", "no/folder/x.png"], "cannot be written: No such file"),
        (["one", "--sort", "lss"], "did you mean 'loss'"),
        (["wandb:team/codegen"], "write wandb:entity/project/run_id"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    write_run(tmp_path, "one", stages="nl", records=10)
    empty = write_run(tmp_path, "empty", stages="nl", records=10)
    (empty / "metrics.jsonl").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(words, connect=lambda: None) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert said.format(root=tmp_path) in error[0]


def test_a_glob_leaves_out_runs_without_records_and_those_named_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, empty = (write_run(tmp_path, name, stages="nl", records=10) for name in ("one", "empty"))
    write_run(tmp_path, "other", stages="nl", records=10)
    (empty / "metrics.jsonl").unlink()
    assert main([str(one), f"{tmp_path}/*"]) == 0
    out = capsys.readouterr().out
    assert "other" in out
    assert "empty" not in out


@pytest.mark.parametrize(
    "words", [[], ["x", "--smooth", "0"], ["x", "--smooth", "a"], ["x", "--loss", "low"], ["x", "--watch", "0"]]
)
def test_wrong_options_are_exit_code_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
