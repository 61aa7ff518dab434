"""Lines taken out of functions, written by a model that was trained to infill and by one that was not: exact match.

    python -m tests.benchmarks.infill stages.mono.steps=500
    python -m tests.benchmarks.infill --paths FOLDER ... --most 400 stages.mono.steps=3000 model.n_layer=4

Without `--paths` the functions are made up: only what follows a line tells what the line says. Both models see the same
functions, steps, tokens and initial weights; a tenth of the functions is held back, and is what both are asked. The
first sees what is before and after the line, both are asked with what is before it alone.
"""

import argparse
import hashlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from train.evaluate.infill import functions_in, read_files

ANIMALS = ("cat", "dog", "cow", "hen", "pig", "fox", "owl", "bee", "ant", "rat", "bat", "elk", "emu", "yak", "ape")
AIR = {"north": "cold", "south": "warm", "up": "thin", "down": "dark", "west": "wet", "east": "dry"}
ALONE = [  # one process that only trains
    *("evaluation.every=100000", "evaluation.sample_tokens=4", "run.save_every=100000", "tracking.wandb=false"),
    *("cluster.cpu_processes=1", "cluster.processes_per_node=1"),
]
WORDS = [
    *ALONE,
    *("stage=mono", "data=files", "data.corpora.mono.code=false", "data.packing=best_fit", "data.document_mask=true"),
    *("data.infill_fraction=0.9", "data.infill_span=0.6", "model=tiny", "model.n_layer=2", "model.n_embd=64"),
    *("model.vocab_size=340", "model.context_length=64", "layout.micro_batch_size=32", "kernels=eager"),
    *("stages.mono.global_batch_size=32", "stages.mono.steps=500", "stages.mono.peak_learning_rate=4e-3"),
]


def main() -> None:
    """Train both models, score them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="settings of both runs")
    parser.add_argument("--paths", type=Path, nargs="+", help="folders of Python files")
    parser.add_argument("--most", type=int, default=10**9, help="characters of a function; longer ones are left out")
    parser.add_argument(
        "--copies", type=int, default=1, help="of a function, each with a span of its own: an epoch each"
    )
    parser.add_argument("--new-tokens", type=int, default=24, help="of a line, at most")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(arguments, (arguments.folder or Path(temporary)).resolve())


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """See `main`."""
    functions = read_functions(arguments.paths, arguments.most) if arguments.paths else made_functions()
    digests = {one: hashlib.sha256(one.encode()).digest() for one in functions}
    held = [one for one in functions if digests[one][0] % 10 == 0]
    trained = sorted(digests.keys() - held, key=digests.__getitem__)
    (folder / "held").mkdir(parents=True, exist_ok=True)
    for number, function in enumerate(held):
        (folder / "held" / f"{number:05d}.py").write_text(function)
    copies = [f"# {copy}\n" * (copy > 0) + one for copy in range(arguments.copies) for one in trained]  # a span each
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in copies))
    print(f"{len(trained)} functions to train on, {len(held)} held back", flush=True)
    print("| objective | asked with | problems | exact match |\n|---|---|---:|---:|")
    for objective in ("infill", "causal"):
        result = json.loads(train_and_score(objective, arguments, folder).read_text())
        for way, share in result["exact_match"].items():
            seen = "both sides" if way == "infill" else "what is before"
            margin = 1.96 * math.sqrt(share * (1 - share) / result["problems"])
            print(f"| {objective} | {seen} | {result['problems']} | {share:.1%} +- {margin:.1%} |", flush=True)


def train_and_score(objective: str, arguments: argparse.Namespace, folder: Path) -> Path:
    """Train one of the models and score it; the file of results."""
    own = [f"run.name={objective}", f"run.root={folder}/runs", f"data.objective={objective}"]
    data = [f"data.cache={folder}/cache", f"data.corpora.mono.paths=[{folder}/train.jsonl]"]
    launch = [sys.executable, "-m", "launch", *WORDS, *own, *data, *arguments.words]
    asked = [f"paths=[{folder}/held]", f"max_new_tokens={arguments.new_tokens}", "temperatures=[0]", "wandb=false"]
    output = folder / f"score_{objective}"
    asked += [f"run={folder}/runs/{objective}", f"output={output}"]
    for command in (launch, [sys.executable, "-m", "train.evaluate", "task=infill", *asked]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"error: {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return output / "infill.json"


def made_functions() -> list[str]:
    """Functions of two lines, either of which tells the other."""
    return [
        f"def {first}_{second}(me):\n    me.go('{way}')\n    return '{air}'\n"
        for first, second in itertools.product(ANIMALS, ANIMALS)
        for way, air in AIR.items()
    ]


def read_functions(paths: list[Path], most: int) -> list[str]:
    """Functions of the Python files below `paths`, each once, of at most `most` characters."""
    texts = (text for _, text in read_files([str(path) for path in paths]))
    return list(dict.fromkeys(one for text in texts for one in functions_in(text) if len(one) <= most))


if __name__ == "__main__":
    main()
