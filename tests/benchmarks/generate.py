"""Tokens/s of generation against Hugging Face's `generate` with its cache: `python -m tests.benchmarks.generate`.

Both have the same weights and must generate the same tokens. Rounds alternate between them, so that other load on the
machine affects both.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from conf.commands import Sampling
from conf.schema import ModelConfig
from model.weights import Weights, memory_reader
from parallel.mesh import single_process_mesh
from tests.twin import MP_NUM, initial_weights, twin_of
from train.sample.generator import Generator, build_modules

HEAD_DIM = 64


class Ids:
    """The part of a tokenizer that the generator needs, without an eos: samples have the full length."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.eos = vocab_size, -1


def main() -> None:
    """Print the median and range of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=51200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.width % (HEAD_DIM * MP_NUM):
        parser.error(f"--width {arguments.width} is not a multiple of {HEAD_DIM * MP_NUM}")
    torch.set_num_threads(arguments.threads)
    model = ModelConfig(
        "benchmark",
        arguments.layers,
        arguments.width,
        arguments.width // HEAD_DIM,
        32,
        arguments.vocabulary,
        2048,
        1e-5,
        0.0,
    )
    weights = initial_weights(model, seed=0)
    source = Weights("initial", Path(), model, None, "memory", memory_reader(weights))
    mesh = single_process_mesh()
    ours = Generator(source, build_modules(source, mesh, torch.float32), Ids(model.vocab_size), mesh)  # type: ignore[arg-type]
    theirs = twin_of(model, weights).eval()
    prompts = torch.randint(0, model.vocab_size, (arguments.batch, arguments.prompt))
    sampling = Sampling(max_new_tokens=arguments.new, temperature=0.0, top_p=1.0, top_k=0, seed=0)

    def run_ours() -> list[list[int]]:
        return ours.generate_ids(prompts.tolist(), sampling, list(range(arguments.batch)))

    @torch.inference_mode()
    def run_theirs() -> list[list[int]]:
        keys = {"max_new_tokens": arguments.new, "do_sample": False, "use_cache": True, "pad_token_id": 0}
        ids = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), eos_token_id=None, **keys)
        return ids[:, arguments.prompt :].tolist()

    seconds: dict[str, list[float]] = {"Hugging Face": [], "this stack": []}
    for round in range(arguments.rounds + 1):  # round 0 is warm-up
        results = []
        for name, run in (("Hugging Face", run_theirs), ("this stack", run_ours)):
            start = time.perf_counter()
            results.append(run())
            if round:
                seconds[name].append(time.perf_counter() - start)
        if not round:
            print("same tokens" if results[0] == results[1] else "the tokens differ", flush=True)
    tokens = arguments.batch * arguments.new
    for name, taken in seconds.items():
        rates = sorted(tokens / second for second in taken)
        median = statistics.median(rates)
        ratio = statistics.median(seconds["Hugging Face"]) / statistics.median(taken)
        print(f"{name:14}{median:8.1f} tokens/s ({rates[0]:.1f} to {rates[-1]:.1f}){ratio:7.2f}x")


if __name__ == "__main__":
    main()
