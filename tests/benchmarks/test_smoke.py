"""Each benchmark runs at a tiny size and prints its table; nothing is asserted about speed."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.infill import made_functions
from tests.benchmarks.scaling import LAYOUTS
from tests.gpt2 import released_gpt2

ROOT = Path(__file__).parents[2]
SHAPE = ["--layers=1", "--width=256", "--vocabulary=256"]


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_peers() -> None:
    """One step on the same rows, in all. bf16 also runs on a CPU without such products: slowly, but this is small.

    In fp32 the tests below run the same commands.
    """
    contenders = ["hf_eager", "bare_loop:kernels=eager", "this_stack:kernels=eager"]
    size = ["--tokens=32", "--sequences=4", "--micro-batch=2", "--steps=1"]
    out = run("peers", *SHAPE, *size, "--precision=bf16", "--contenders", *contenders)
    losses = dict(re.findall(r"^\| (\S+) \|.* ([\d.]+) \|$", out, re.M))
    assert list(losses) == contenders
    assert all(float(loss) == pytest.approx(math.log(256), rel=0.02) for loss in losses.values())
    assert losses[contenders[1]] == losses[contenders[2]]


def test_peers_compiled() -> None:
    size = ["--tokens=32", "--steps=1"]
    out = run("peers", *SHAPE, *size, "--contenders", "plain_gpt@launch", "this_stack")
    assert re.search(r"^\| plain_gpt@launch .* 1\.00x .*GiB", out, re.M) and re.search(
        r"^\| this_stack .*GiB", out, re.M
    )


def test_a_peer_that_fails_is_named_in_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed too, here two empty packages, with what installs it; the others go on."""
    for package in ("olmo_core", "megatron"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    contenders = ["this_stack:kernels=nothing", "olmo_core", "megatron_core", "bare_loop:kernels=eager"]
    out = run("peers", *SHAPE, "--tokens=32", "--steps=1", "--contenders", *contenders)
    assert re.search(r"^\| this_stack:kernels=nothing \| .*nothing", out, re.M)
    assert re.search(r"^\| olmo_core \| .*pip install ai2-olmo-core \|", out, re.M)
    assert re.search(r"^\| megatron_core \| .*pip install megatron-core \|", out, re.M)
    assert re.search(r"^\| bare_loop:kernels=eager \| .*GiB", out, re.M)


def test_vocabulary_loss() -> None:
    out = run("vocabulary_loss", "--tokens=64", "--width=32", "--vocabulary=128", "--chunks", "32")
    assert re.findall(r"^(full logits \(torch\)|chunks of \d+ tokens) +[\d.]+ GiB +[\d.]+ s$", out, re.M) == [
        "full logits (torch)",
        "chunks of 32 tokens",
    ]


def test_data() -> None:
    released_gpt2()  # or the test is skipped
    out = run("data", "1")
    assert re.search(r"^prepare: [\d.]+ MB/s of one core \(1 MB, \d+ s\)$", out, re.M)
    assert re.search(r"^ +peak \d+ MiB, \d+ MiB of it before the preparation$", out, re.M)
    assert re.search(r"^read: [\d,]+ tokens/s by one thread, ready in [\d.]+ ms$", out, re.M)


def test_loader() -> None:
    out = run("loader", "--tokens=100000")
    assert len(re.findall(r"^\| (concat|best_fit) \| (True|False) \| (cold|cached) \| [\d,]+ \|", out, re.M)) == 8


def test_infill(tmp_path: Path) -> None:
    """Both ways of asking are scored, and both models: one has the tokens of the form, the other has none."""
    (tmp_path / "walks.py").write_text("\n".join(made_functions()[:60]))
    words = ["--new-tokens=8", "stages.mono.steps=1", "stages.mono.global_batch_size=4", "layout.micro_batch_size=4"]
    out = run("infill", "--paths", str(tmp_path), *words)
    rows = re.findall(
        r"^\| (infill|causal) \| (both sides|what is before) \| (\d+) \| [\d.]+% \+- [\d.]+% \|$", out, re.M
    )
    ways = [("infill", "both sides"), ("infill", "what is before"), ("causal", "what is before")]
    assert [row[:2] for row in rows] == ways and len({row[2] for row in rows}) == 1


def test_commits() -> None:
    """A made repository is harvested, trained on and asked; a model of one step writes no diff."""
    words = ["stages.mono.steps=1", "stages.mono.global_batch_size=4", "layout.micro_batch_size=4"]
    words.append("data.validation_fraction=0.2")
    out = run("commits", "--commits=150", "--held=2", *words)
    assert re.search(r"^150 commits; of 2 held back git applied 0, right were 0$", out, re.M)


def test_generate() -> None:
    out = run("generate", *SHAPE, "--batch=2", "--prompt=8", "--new=4", "--rounds=1")
    assert "same tokens" in out
    assert re.search(r"^this stack +[\d.]+ tokens/s .*x$", out, re.M)


def test_checkpoint() -> None:
    shape = ["model.n_layer=1", "model.n_embd=32", "model.n_head=4", "model.rotary_dim=4", "kernels=eager"]
    out = run("checkpoint", *shape, "--steps=1", "--saves=1")
    assert re.search(r"^stall .* of 250 steps$", out, re.M) and re.search(r"^drain .* of plain writes$", out, re.M)


def test_kernels() -> None:
    """Every operation has a fastest form; one that no compiler touches is enough of a run."""
    quick = ["attention", "weight_gradient", "products", "optimizer"]
    out = run("kernels", "--rounds=1", "--tokens=16", "--operations", *quick)
    rows = re.findall(r"^\| (\w+) \| tiny \| (.+?) \| [\d.e-]+ \w+ \| -?[\d.]+ \| -?[\d.]+% \|$", out, re.M)
    assert [name for name, form in rows if form.startswith("**")] == quick


def test_scaling() -> None:
    shape = ["--layers=2", "--width=64", "--heads=2", "--tokens=32", "--vocabulary=96"]
    out = run("scaling", *shape, "--rounds=1", "--steps=1", "--words", "kernels=eager")
    rows = [line.strip("| ").split(" | ") for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == [*LAYOUTS] and rows[0][2] == "1.00"
    assert all(abs(sum(map(float, row[3:])) - 100) < 0.3 for row in rows), "the shares are of the whole step"
