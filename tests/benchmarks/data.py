"""Speed and memory of preparing and reading data: `python -m tests.benchmarks.data [MEGABYTES] [datasets]`.

A corpus of the installed packages' Python is made in a temporary folder and prepared with CodeGen's tokenizer by one
process: MB of text a second of its processor time, and its peak of memory. With `datasets`, the same texts are
tokenized by `datasets.map` with `tokenizers`, in batches, by one process too.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from conf.compose import compose_settings
from model.tokenizer import open_tokenizer
from tests.gpt2 import released_gpt2
from train.data.local import read_local
from train.data.mixture import training_samples
from train.data.prepare import prepare

MEGABYTE = 1_000_000


def write_corpus(folder: Path, megabytes: int) -> Path:
    """A JSONL file of about `megabytes` of Python, each document once: later rounds begin with their number."""
    path, size, number = folder / "corpus.jsonl", 0, 0
    with path.open("w") as file:
        while size < megabytes * MEGABYTE:
            for document in read_local("mono"):
                text = f"# {number}\n{document.text}"
                file.write(json.dumps({"text": text}) + "\n")
                size += len(text.encode())
                if size >= megabytes * MEGABYTE:
                    break
            number += 1
    return path


def main(megabytes: int, beside: bool) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder, megabytes)
        open_tokenizer("codegen", str(released_gpt2()), 51200).save(folder / "tokenizer")
        words = ["data=files", "stage=mono", f"data.cache={folder / 'cache'}", f"data.corpora.mono.paths=[{corpus}]"]
        words += ["data.workers=1", "data.tokenizer.kind=codegen", f"data.tokenizer.path={folder / 'tokenizer'}"]
        settings = compose_settings([*words, "model.vocab_size=51200", "model.context_length=2048"])
        started, wall = time.process_time(), time.perf_counter()
        files = prepare(settings).corpora["mono"]
        seconds, wall = time.process_time() - started, time.perf_counter() - wall
        size = (files.train_bytes + files.validation_bytes) / MEGABYTE
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"prepare: {size / seconds:.2f} MB/s of one core ({size:.0f} MB, {wall:.0f} s), peak {peak:.0f} MiB")
        data = prepare(settings, lambda line: None)
        started = time.perf_counter()
        dataset, order = training_samples(settings, data, "mono")
        opened, started = time.perf_counter() - started, time.perf_counter()
        tokens = sum(len(dataset[order[position]][0]) for position in range(min(len(dataset), 5000)))
        rate = tokens / (time.perf_counter() - started)
        print(f"read: {rate:,.0f} tokens/s by one thread, ready in {opened * 1e3:.1f} ms")
        if beside:
            with_datasets(corpus, folder)


def with_datasets(corpus: Path, folder: Path) -> None:
    """The same file by `datasets.map` with the tokenizers library."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = datasets.load_dataset("json", data_files=str(corpus), split="train", cache_dir=str(folder / "hf"))
    size = corpus.stat().st_size / MEGABYTE
    started = time.process_time()
    rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])
    print(f"datasets.map: {size / (time.process_time() - started):.2f} MB/s of one core")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, "datasets" in sys.argv)
