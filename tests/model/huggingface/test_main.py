"""The command as a person runs it: words in, a folder out, or one line and exit code 2."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from model.huggingface.convert import import_weights
from model.pretrained import open_weights
from tests.model.huggingface.random_models import random_model, save
from tests.train.checkpoint.test_load import flip

ROOT = Path(__file__).parents[3]


def run(*words: str, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """`most_bytes`: the largest file that this process may write, as a full disk would have it."""
    limit = None if most_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    return subprocess.run(
        [sys.executable, "-m", "model.huggingface", *words],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def test_import_and_export_say_what_they_made(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "source")
    done = run("import", str(source), str(tmp_path / "ours"), "vocab_size=512")
    assert done.returncode == 0, done.stderr
    assert "imported weights: n_layer 2" in done.stdout and "without a tokenizer" in done.stdout
    done = run("export", str(tmp_path / "ours"), str(tmp_path / "theirs"), "mp_num=8", "dtype=bf16")
    assert done.returncode == 0, done.stderr
    assert "mp_num 8" in done.stdout
    assert open_weights(tmp_path / "theirs").model.vocab_size == 512


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "write `python -m model.huggingface import SOURCE TARGET`"),
        (["convert", "a", "b"], "write `python -m model.huggingface import SOURCE TARGET`"),
        (["import", "a", "b", "mpnum=4"], "unknown setting 'mpnum'; did you mean 'mp_num'?"),
        (["import", "/nowhere", "b"], "source=/nowhere does not exist"),
        (["import", "nobody/nothing", "b"], "source=nobody/nothing is no folder here and cannot be fetched"),
        (["export", "a", "b", "dtype=int4"], "dtype: "),
    ],
)
def test_what_a_person_can_put_right_is_one_line(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_damaged_weights_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    import_weights(open_weights(save(random_model(), tmp_path / "source")), ours)
    flip(ours / "weights/layer_002.safetensors")
    for verb in ("import", "export"):
        done = run(verb, str(ours), str(tmp_path / "made"))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"{ours}/weights is damaged: layer_002.safetensors does not match its checksum; bring" in done.stderr
        assert "import it again" in done.stderr and not (tmp_path / "made").exists()


@pytest.mark.parametrize("verb", ["import", "export"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, verb: str) -> None:
    source = save(random_model(), tmp_path / "source")
    done = run(verb, str(source), str(tmp_path / "made"), most_bytes=50_000)
    assert done.returncode == 2, done.stderr
    assert "made cannot be written: " in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
