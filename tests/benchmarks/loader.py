"""Speed of reading samples: `python -m tests.benchmarks.loader [--tokens N]`.

Documents of usual lengths are written as shards. One process then reads micro-batches from them as a rank does, in the
order of training and made ahead by the thread: cold, after the kernel was told to drop their pages, and cached.
Beside it stands what 8 H100s could take that train 350M at 60% of their peak; each has a rank, and so a
loader, of its own. On a machine that does other things look at the rate by the process's own processor time.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

import numpy

from conf.compose import compose_settings
from model.flops import flops_per_token
from train.data.batches import micro_batches, prefetched
from train.data.best_fit import BestFitDataset, write_plan
from train.data.mixture import MixedOrder
from train.data.packed_dataset import PackedDataset, Samples
from train.data.token_file import TokenFileWriter
from train.data.token_spans import TokenSpansWriter

H100_TFLOPS, MFU, GPUS = 989.4, 0.6, 8
MICRO_BATCH, TARGET = 8, 10
MOST_SAMPLES = 20_000  # that are read for one figure
SHARD_TOKENS = 1 << 24


def write_corpus(folder: Path, tokens: int) -> Path:
    """Shards of documents, median 400 tokens, with an eos, 0, after each; one in fifty is left out."""
    generator = numpy.random.default_rng(0)
    corpus = folder / "corpus" / "train.spans"
    corpus.parent.mkdir()
    with TokenSpansWriter(corpus) as spans:
        for number in range(-(-tokens // SHARD_TOKENS)):
            shard = folder / f"shard_{number}"
            shard.mkdir()
            lengths = generator.lognormal(6.0, 1.3, SHARD_TOKENS // 900).astype(int) + 1
            ends = 1 + numpy.cumsum(lengths)
            ids = generator.integers(1, 50_000, ends[-1], dtype=numpy.uint16)
            ids[[0, *(ends - 1)]] = 0
            with TokenFileWriter(shard / "tokens.bin", "<u2") as file:
                file.write(ids)
            left_out = numpy.flatnonzero(generator.random(len(ends) - 1) < 0.02)
            starts = numpy.concatenate([[0 if number == 0 else 1], ends[left_out]])
            stops = numpy.concatenate([(ends - lengths)[left_out], ends[-1:]])
            spans.write(shard, starts[starts < stops], stops[starts < stops])
    return corpus


def drop_from_cache(files: Sequence[Path]) -> None:
    """Ask the kernel to forget the files' pages, which nothing maps here."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def tokens_per_second(samples: Samples, length: int) -> tuple[float, float]:
    """Of one rank among eight, its thread included: by the clock, and by processor time."""
    order = MixedOrder([len(samples)], [(0, [1.0])], 1)
    batches = prefetched(micro_batches(samples, order, 0, MICRO_BATCH, 0, GPUS), pin=False)
    count = max(1, min(len(samples), MOST_SAMPLES) // MICRO_BATCH)
    started, used = time.perf_counter(), time.process_time()
    read = sum(batch.ids.numel() for batch in islice(batches, count))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    batches.close()  # type: ignore[attr-defined]
    assert read == count * MICRO_BATCH * length
    return read / seconds, read / used


def main() -> None:
    """Write the file, read it in each way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=500_000_000, help="of the corpus; two bytes each")
    arguments = parser.parse_args()
    model = compose_settings(["model=350m"]).model
    length = model.context_length
    need = GPUS * H100_TFLOPS * 1e12 * MFU / flops_per_token(model)
    print(f"{GPUS} H100s take {need:,.0f} tokens/s of 350M at {MFU:.0%} of their peak, one {need / GPUS:,.0f}\n")
    with tempfile.TemporaryDirectory() as place:
        path = write_corpus(Path(place), arguments.tokens)
        started = time.perf_counter()
        write_plan(path, "<u2", length)
        seconds = time.perf_counter() - started
        padding = BestFitDataset(path, "<u2", length).padding
        print("| packing | document mask | file | tokens/s of one process | of all 8 H100s | by processor time |")
        print("|---|---|---|---:|---:|---:|")
        for packed, mask, state in product((PackedDataset, BestFitDataset), (False, True), ("cold", "cached")):
            if state == "cold":
                drop_from_cache([each for each in Path(place).rglob("*") if each.is_file()])
            rate, by_processor = tokens_per_second(packed(path, "<u2", length, document_mask=mask), length)
            name = "concat" if packed is PackedDataset else "best_fit"
            factors = f"{rate / need:.1f}x | {by_processor / need:.1f}x"
            print(f"| {name} | {mask} | {state} | {rate:,.0f} | {factors} |", flush=True)
        print(f"\nplanned {arguments.tokens / seconds:,.0f} tokens/s, {padding:.3%} padding; target {TARGET}x")


if __name__ == "__main__":
    main()
