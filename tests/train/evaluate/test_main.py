"""`python -m train.evaluate` as its user meets it, on a finished run with a model that knows nothing."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conf.run_folder import write_json
from model.huggingface.__main__ import main as huggingface
from tests.train.evaluate.cases import ALLOWED
from tests.train.evaluate.test_mtpb import PROBLEM
from tests.train.sample.cases import MODEL, finished_run
from train.evaluate.__main__ import main
from train.sample.generator import open_generator

ROOT = Path(__file__).parents[3]
FUNCTION = {
    "task_id": "Test/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
QUICK = ["max_new_tokens=6", "samples=3", "seconds=120", "wandb=false", f"sandbox={ALLOWED.name}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems, the last of which any completion solves."""
    easy = {**FUNCTION, "task_id": "Test/2", "test": "def check(candidate): pass\n", "prompt": "one = 1 #"}
    rows = [FUNCTION, {**FUNCTION, "task_id": "Test/1"}, easy]
    path = tmp_path_factory.mktemp("problems") / "functions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_humaneval_is_scored_kept_and_goes_on_where_it_was(
    run: Path, functions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run={run}", "task=humaneval", f"problems={functions}", *QUICK, "k=[1,3]", "temperatures=[0.2,0.8]"]
    assert main(words) == 0
    folder = run / "stages/nl/evaluations"
    result = json.loads((folder / "humaneval.json").read_text())
    assert result["pass_at_k"]["1"] == pytest.approx(1 / 3) and result["problems"] == 3
    assert set(result["temperatures"]) == {"0.2", "0.8"}
    assert "best of temperatures" in capsys.readouterr().out
    samples = rows(folder / "humaneval_t0.8.jsonl")
    assert [(row["task_id"], row["sample"]) for row in samples] == [
        (f"Test/{task}", index) for task in range(3) for index in range(3)
    ]

    for name in ("humaneval_t0.8.jsonl", "humaneval_t0.8_results.jsonl", "humaneval_settings.json"):
        shutil.copy(folder / name, tmp_path / name)
    for name in ("humaneval_t0.8.jsonl", "humaneval_t0.8_results.jsonl"):  # interrupted in the middle of a line
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[: len(text) // 2])
    assert main([*words, f"output={tmp_path}", "batch_size=2"]) == 0
    for name in ("humaneval_t0.8.jsonl", "humaneval_t0.2.jsonl", "humaneval_t0.8_results.jsonl"):
        assert rows(tmp_path / name) == rows(folder / name)

    assert main([*words, "seed=7"]) == 2
    assert "holds samples for seed=1234, not 7; change output=..." in capsys.readouterr().err


def test_mtpb_reports_both_ways_of_asking(run: Path, tmp_path: Path) -> None:
    constant = {**PROBLEM, "id": 2, "prompts": ["x\nprint(6)"], "inputs": [{}], "outputs": [6], "category": "text"}
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(PROBLEM) + "\n" + json.dumps(constant) + "\n")
    words = [f"run={run}", "task=mtpb", f"problems={path}", f"output={tmp_path / 'out'}", *QUICK]
    assert main(words) == 0
    result = json.loads((tmp_path / "out/mtpb.json").read_text())
    assert set(result["categories"]) == {"math", "text"} and set(result["single_turn_turns"]) == {"1", "2"}
    programs = rows(tmp_path / "out/mtpb_multi_turn_t0.2.jsonl")
    assert len(programs) == 3 * 2 + 3
    first = str(programs[0]["program"])
    assert first.startswith("# Import libraries.\n\nimport numpy as np\n\n# Assign 2 to x.\n")
    assert first.index("# Assign 2") < first.index("# Print x times 3.")
    for way in ("prompt_perplexity", "single_turn_prompt_perplexity"):
        assert result[way]["all"] > 1


def test_perplexity_is_the_models_own_loss(run: Path, tmp_path: Path) -> None:
    text = "def f(x):\n    return x\n" * 40
    (tmp_path / "text.py").write_text(text)
    words = [f"run={run}", "task=perplexity", f"paths=[{tmp_path}/text.py]", f"output={tmp_path}", "batch_size=3"]
    assert main([*words, "wandb=false"]) == 0
    result = json.loads((tmp_path / "perplexity.json").read_text())
    generator = open_generator(run)
    ids = [generator.tokenizer.eos, *generator.tokenizer.encode(text), generator.tokenizer.eos]
    length, nats = MODEL.context_length, 0.0
    for start in range(0, len(ids) - 1, length):
        nats += float(generator.token_losses(torch.tensor([ids[start : start + length + 1]])).sum())
    assert result["bits_per_byte"]["text.py"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    assert result["perplexity"]["text.py"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)
    (tmp_path / "other.py").write_text("x = 1\n")
    assert main([*words, f"paths=[{tmp_path}/other.py]"]) == 0
    both = json.loads((tmp_path / "perplexity.json").read_text())
    assert both["perplexity"].keys() == {"text.py", "other.py"}, "the second does not replace the first"
    write_json(tmp_path / "perplexity.json", {**both, "weights": "others"})
    assert main(words) == 0
    assert json.loads((tmp_path / "perplexity.json").read_text())["perplexity"].keys() == {"text.py"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=humanevil"], "task=humanevil is not known; use harness, humaneval, humaneval_plus, infill, mbpp, "),
        (["task=mtpb"], "task=mtpb needs problems=mtpb.jsonl; no package brings it"),
        (["task=mtpb", "problems=/none.jsonl"], "problems=/none.jsonl is not a file"),
        (["task=humaneval", "samples=5"], "pass@k of 5 samples needs 1 <= k <= 5; k=[1, 10, 100], use k=[1]"),
        (["task=humaneval", "samples=0"], "samples=0 must be more than 0"),
        (["task=humaneval", "temperatures=[-1]"], "temperature=-1.0 must be at least 0"),
        (["task=humaneval", "top_p=2"], "top_p=2.0 must be above 0 and at most 1"),
        (["task=perplexity", "paths=[/none.txt]"], "paths: /none.txt does not exist"),
        (["task=perplexity", "paths=[/]"], "paths: / is not a file"),
        (["task=perplexity", "run=/none"], "/none"),
        (["task=infill", "paths=[/none]"], "paths: /none does not exist"),
        (["task=infill"], "the prepared data of"),
        (["task=infill", "problems=nothing.jsonl"], "problems=nothing.jsonl is not a file"),
        (["task=perplexity", "batch=3"], "unknown setting 'batch'; did you mean 'batch_size'?"),
    ],
)
def test_bad_input_is_one_line(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run={run}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_file_that_holds_no_problems_names_its_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "problems.jsonl"
    for text, said in (
        (json.dumps(FUNCTION) + "\n{", ":2 is no JSON"),
        (json.dumps(FUNCTION) + '\n{"task_id": 3}\n', ":2 is no problem: prompt, entry_point"),
        ((json.dumps(FUNCTION) + "\n") * 2, ":2: task_id Test/0 stands twice"),
        (json.dumps({**FUNCTION, "test": 3}), ":1: test is no text"),
        ("\n", "holds no problem"),
    ):
        path.write_text(text)
        words = [f"run={run}", "task=humaneval", f"problems={path}", f"output={tmp_path / 'out'}", *QUICK, "k=[1]"]
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_samples_of_other_weights_are_not_taken_for_these(
    functions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage that was trained on has new weights in the old folder."""
    run = finished_run(tmp_path)
    words = [f"run={run}", "task=humaneval", f"problems={functions}", *QUICK, "k=[1]", "temperatures=[0]"]
    assert main(words) == 0
    assert main(words) == 0
    path = run / "stages/nl/weights/layer_001.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, path)
    capsys.readouterr()
    assert main(words) == 2
    assert "holds samples of other weights" in capsys.readouterr().err
    assert main([*words, "seconds=2"]) == 2


def test_a_refused_evaluation_does_not_block_the_corrected_one(
    run: Path, functions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings are kept once the problems are read; the same problems in another file are the same."""
    words = [f"run={run}", "task=humaneval", f"output={tmp_path / 'out'}", *QUICK, "k=[1]", "temperatures=[0]"]
    (tmp_path / "broken.jsonl").write_text("{")
    assert main([*words, f"problems={tmp_path}/broken.jsonl", "seed=1"]) == 2
    assert not (tmp_path / "out").exists()
    assert main([*words, f"problems={functions}"]) == 0
    shutil.copy(functions, tmp_path / "copy.jsonl")
    assert main([*words, f"problems={tmp_path}/copy.jsonl"]) == 0
    (tmp_path / "copy.jsonl").write_text(functions.read_text().replace("def one()", "def one(x=0)"))
    capsys.readouterr()
    assert main([*words, f"problems={tmp_path}/copy.jsonl"]) == 2
    assert "holds samples of other problems than these" in capsys.readouterr().err


def test_a_line_separator_inside_of_a_text_ends_no_line(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**FUNCTION, "prompt": "one = 1  # a\u2028b #"}, ensure_ascii=False) + "\n")
    words = [f"run={run}", "task=humaneval", f"problems={path}", f"output={tmp_path / 'out'}", *QUICK, "k=[1]"]
    assert main([*words, "temperatures=[0]"]) == 0


# `python -m train.evaluate` that is interrupted once three samples are in its file.
INTERRUPTED = """
import os, signal, sys
from train.evaluate import programs
from train.evaluate.__main__ import main

append, count = programs.append_records, 0

def append_and_interrupt(path, rows):
    global count
    append(path, rows)
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGINT)

programs.append_records = append_and_interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.exit(main(sys.argv[1:]))
"""


def test_interrupted_it_says_so_and_goes_on(run: Path, functions: Path, tmp_path: Path) -> None:
    """Ctrl-C while samples are drawn: exit code 75, and the same command ends with what it would have had."""
    words = ["task=humaneval", f"run={run}", f"problems={functions}", "k=[1]", "temperatures=[0.8]", *QUICK[-2:]]
    words += ["samples=4", "batch_size=1", "max_new_tokens=24", f"output={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted; the same command resumes from here"
    path = tmp_path / "humaneval_t0.8.jsonl"
    kept = rows(path)
    assert len(kept) == 3
    assert main(words) == 0
    assert rows(path)[: len(kept)] == kept and len(rows(path)) == 12
    whole = tmp_path / "whole"
    assert main([*words, f"output={whole}"]) == 0
    assert rows(whole / path.name) == rows(path)


def test_an_exported_folder_stays_as_it_was_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.py").write_text("x = 1\n" * 30)
    assert huggingface(["export", str(run), "exported/mine"]) == 0
    before = sorted(path.name for path in Path("exported/mine").iterdir())
    assert main(["run=./exported/mine", "task=perplexity", "paths=[text.py]"]) == 0
    assert sorted(path.name for path in Path("exported/mine").iterdir()) == before
    assert Path("evaluations/exported-mine/perplexity.json").is_file()
    assert "results and samples: evaluations/exported-mine\n" in capsys.readouterr().out


def test_results_are_added_to_the_stages_own_wandb_run(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    (run / "stages/nl/lineage.json").write_text("{}")
    (run / "environment.json").write_text("{}")
    (tmp_path / "text.py").write_text("x = 1\n" * 30)
    words = ["-m", "train.evaluate", f"run={run}", "task=perplexity", f"paths=[{tmp_path}/text.py]"]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=variables, check=True)
    result = json.loads((run / "stages/nl/evaluations/perplexity.json").read_text())
    stage = hashlib.sha256(f"{run.resolve()}/nl".encode()).hexdigest()[:12]  # what training calls its run
    (file,) = (run / "wandb").glob(f"offline-run-*-{stage}/*.wandb")
    assert b"perplexity/bits_per_byte/text.py" in file.read_bytes()
    assert str(result["bits_per_byte"]["text.py"])[:8].encode() in file.read_bytes()
