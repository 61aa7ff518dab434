"""Commits whose message says the change, written by a model that was trained on them: the share that git applies.

    python -m tests.benchmarks.commits stages.mono.steps=1000

A repository is made in which each commit renames one name of a file, as its message says. A model is trained on it by
`data=git`, and `train.sample diff=FILE message=... apply=true` changes files that are in none of its commits. Right is
what git applied and is, to the byte, what the message asks for.
"""

import argparse
import contextlib
import io
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.infill import ALONE, ANIMALS
from train.sample.__main__ import main as sample

WORDS = [
    *ALONE,
    *("experiment=diff_codegen", "model=tiny", "model.n_layer=2", "model.n_embd=64", "model.vocab_size=400"),
    *("model.context_length=72", "layout=data_parallel", "layout.micro_batch_size=32", "kernels=eager"),
    *("data.tokenizer.kind=sentencepiece", "data.tokenizer.path=null", "data.packing=best_fit"),
    *("data.document_mask=true", "stages.mono.init_from=null", "stages.mono.epochs=null", "stages.mono.steps=1000"),
    *("stages.mono.warmup_ratio=0.05", "stages.mono.global_batch_size=32", "stages.mono.peak_learning_rate=4e-3"),
]
Change = tuple[str, str, str]  # before, message, after


def main() -> None:
    """Make the repository, train on it, change the files that were held back, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="settings of the run")
    parser.add_argument("--commits", type=int, default=8000)
    parser.add_argument("--held", type=int, default=100, help="files that are changed after training")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        changes = list(dict.fromkeys(made_change(random.Random(seed)) for seed in range(arguments.commits)))
        seen = set(changes)
        made = (made_change(random.Random(f"held {seed}")) for seed in range(10 * arguments.held))
        held = [change for change in dict.fromkeys(made) if change not in seen][: arguments.held]
        make_repository(folder / "repository", changes)
        own = [f"run.root={folder}/runs", "run.name=commits", f"data.cache={folder}/cache"]
        own.append(f"data.corpora.mono.paths=[{folder}/repository]")
        subprocess.run([sys.executable, "-m", "launch", *WORDS, *own, *arguments.words], check=True)
        applied, right = score(folder, held)
        print(f"{len(changes)} commits; of {len(held)} held back git applied {applied}, right were {right}")


def made_change(draw: random.Random) -> Change:
    """A file of two names and one of them renamed."""
    first, second, new = draw.sample(ANIMALS, 3)
    old = draw.choice((first, second))
    before = f"{first} = {draw.randrange(100)}\n{second} = {draw.randrange(100)}\n"
    return before, f"rename {old} to {new}", before.replace(f"{old} =", f"{new} =")


def make_repository(folder: Path, changes: list[Change]) -> None:
    """A repository in `folder` with a first commit of all files before, and a commit for each change."""
    lines: list[str] = []

    def commit(message: str, files: dict[str, str]) -> None:
        lines.append(f"commit refs/heads/main\ncommitter Ann <a@b> 0 +0000\ndata {len(message)}\n{message}\n")
        lines.extend(f"M 100644 inline {name}\ndata {len(text)}\n{text}\n" for name, text in files.items())

    # small folders: git is quick
    names = [f"d{number // 100}/{number % 100}/names.py" for number in range(len(changes))]
    commit("begin", {name: before for name, (before, _, _) in zip(names, changes, strict=True)})
    for name, (_, message, after) in zip(names, changes, strict=True):
        commit(message, {name: after})
    subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
    subprocess.run(["git", "-C", folder, "fast-import", "--quiet"], input="".join(lines).encode(), check=True)


def score(folder: Path, held: list[Change]) -> tuple[int, int]:
    """How many of `held` git applied, and how many of these files are then as asked."""
    applied = right = 0
    for number, (before, message, after) in enumerate(held):
        file = folder / "repository" / f"d{number % 50}" / f"{100 + number}" / "names.py"
        file.parent.mkdir(parents=True)
        file.write_text(before)
        words = [f"run={folder}/runs/commits", f"diff={file}", f"message={message}", "apply=true"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = sample([*words, "max_new_tokens=32", "temperature=0"])
        applied += code == 0
        right += code == 0 and file.read_text() == after
    return applied, right


if __name__ == "__main__":
    main()
