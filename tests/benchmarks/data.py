"""Speed and memory of preparing and reading data: `python -m tests.benchmarks.data [MEGABYTES] [WORD ...]`.

A corpus of the installed packages' Python is made in a temporary folder and prepared with CodeGen's tokenizer by one
process: MB of text a second of its processor time, and its peak of memory. Beside it, on the same file:

    datasets           `datasets.map` with `tokenizers`, in batches, by one process too
    datatrove=PYTHON   datatrove's JSONL reader and tokenizer step, by an interpreter that has it (it needs xxhash<4)
    bytes              our preparation with each byte a token, which saves time where only memory is asked for
"""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import train.data.prepare
import train.data.shard
from conf.compose import compose_settings
from model.tokenizer import open_tokenizer
from tests.gpt2 import released_gpt2
from train.data.local import read_local
from train.data.mixture import training_samples
from train.data.prepare import prepare

MEGABYTE = 1_000_000
DATATROVE = """
import resource, sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
folder, tokenizer = sys.argv[1:]
given = {"tokenizer_name_or_path": tokenizer, "eos_token": "<|endoftext|>", "shuffle_documents": False}
given |= {"local_working_dir": f"{folder}/datatrove/work", "save_filename": "x"}
steps = [JsonlReader(folder, glob_pattern="corpus.jsonl"), DocumentTokenizer(f"{folder}/datatrove/tokens", **given)]
begun = resource.getrusage(resource.RUSAGE_SELF)
LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=f"{folder}/datatrove/log").run()
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime)
"""


class Bytes:
    """A stand-in for a tokenizer: every byte is a token."""

    kind, vocab_size, eos = "bytes", 257, 256

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode())

    def save(self, folder: Path) -> None:
        """An empty folder."""
        folder.mkdir()


def write_corpus(folder: Path, megabytes: int) -> int:
    """corpus.jsonl with about `megabytes` of Python, each document once: each round begins with its number; bytes."""
    documents = [(json.dumps(one.text)[1:], len(one.text.encode())) for one in read_local("mono")]
    size = number = 0
    with (folder / "corpus.jsonl").open("w") as file:
        while size < megabytes * MEGABYTE:
            text, length = documents[number % len(documents)]
            head = f"# {number // len(documents)}\n"
            file.write(f'{{"text": {json.dumps(head)[:-1]}{text}}}\n')
            size, number = size + len(head) + length, number + 1
    return size


def main(megabytes: int, words: list[str]) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:  # its memory is not counted
            size = other.submit(write_corpus, folder, megabytes).result() / MEGABYTE
        tokenizer = folder / "tokenizer"
        open_tokenizer("codegen", str(released_gpt2()), 51200).save(tokenizer)
        chosen = ["data=files", "stage=mono", f"data.cache={folder / 'cache'}", "data.workers=1"]
        chosen += [f"data.corpora.mono.paths=[{folder / 'corpus.jsonl'}]", "data.tokenizer.kind=codegen"]
        chosen += [f"data.tokenizer.path={tokenizer}", "model.vocab_size=51200", "model.context_length=2048"]
        chosen += ["data.validation_fraction=0.1"]  # of a few dozen documents some are in it
        settings = compose_settings(chosen)
        if "bytes" in words:
            train.data.prepare.load_tokenizer = train.data.shard.load_tokenizer = lambda _: Bytes()  # type: ignore[assignment, return-value]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started, wall = time.process_time(), time.perf_counter()
        prepare(settings)
        seconds, wall = time.process_time() - started, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"prepare: {size / seconds:.2f} MB/s of one core ({size:.0f} MB, {wall:.0f} s)", flush=True)
        print(f"         peak {peak:.0f} MiB, {before:.0f} MiB of it before the preparation", flush=True)
        data = prepare(settings, lambda line: None)
        started = time.perf_counter()
        dataset, order = training_samples(settings, data, "mono")
        opened, started = time.perf_counter() - started, time.perf_counter()
        tokens = sum(len(dataset[order[position]][0]) for position in range(min(len(dataset), 5000)))
        rate = tokens / (time.perf_counter() - started)
        print(f"read: {rate:,.0f} tokens/s by one thread, ready in {opened * 1e3:.1f} ms", flush=True)
        if "datasets" in words:
            print(f"datasets.map: {size / with_datasets(folder):.2f} MB/s of one core", flush=True)
        for python in (word.partition("=")[2] for word in words if word.startswith("datatrove=")):
            print(f"datatrove: {size / with_datatrove(folder, python):.2f} MB/s of one core", flush=True)


def with_datasets(folder: Path) -> float:
    """Seconds of processor time that `datasets.map` takes with the tokenizers library on one thread."""
    import datasets
    from transformers import AutoTokenizer

    os.environ["RAYON_NUM_THREADS"] = "1"
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    file = str(folder / "corpus.jsonl")
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(folder / "hf"))
    started = time.process_time()
    rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])
    return time.process_time() - started


def with_datatrove(folder: Path, python: str) -> float:
    """Seconds of processor time that datatrove's reader and tokenizer step take in one task."""
    command = [python, "-c", DATATROVE, str(folder), str(folder / "tokenizer/tokenizer.json")]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    return float(
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[-1]
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:])
