"""A training step of this stack beside its peers: tokens/s, TFLOP/s, share of the matmul peak, memory, time to start.

`python -m tests.benchmarks.peers` measures 4 layers of the 350M shape, 1 x 1024 tokens, in fp32. Every contender trains
the same shape on the same tokens, in a process of its own, in turn, `--rounds` times; the table shows medians. A
micro-batch that does not fit the GPU's memory is halved. `pip install ai2-olmo-core megatron-core` brings two of them.
This stack's processes get the environment variables that its launcher sets; peers have none, unless `@launch` follows
their name.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

from conf.choices import Precision
from conf.compose import compose_settings
from launch.local import environment

OURS = ("this_stack", "bare_loop")
PEERS = ["hf_eager", "hf_compiled", "plain_gpt", "plain_gpt@launch", "olmo_core", "megatron_core"]


def main() -> None:
    """Measure every contender and print the table."""
    arguments = read_arguments()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return
    model = shape_of(arguments)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.contenders}
    for _ in range(arguments.rounds):
        for name in arguments.contenders:
            found[name].append(run_alone(name))
    print(describe(found, model, arguments), flush=True)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="350m", help="of conf/model")
    parser.add_argument("--layers", type=int, default=4, help="0: all of them")
    parser.add_argument("--width", type=int, help="instead of the model's, with heads of 64")
    parser.add_argument("--vocabulary", type=int, default=51200)
    parser.add_argument("--tokens", type=int, default=1024, help="of a sequence")
    parser.add_argument("--sequences", type=int, default=1, help="of an optimizer step")
    parser.add_argument("--micro-batch", type=int, help="the largest to try; default: all sequences")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=5, help="timed in a round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--contenders", nargs="+", default=[*PEERS, *reversed(OURS)], metavar="NAME", help="this_stack:key=value,..."
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_alone(name: str) -> dict[str, Any]:
    """One contender in its own process, so that its peak of memory is its own; what failed is in `error`."""
    word, _, launched = name.partition("@")
    command = [sys.executable, "-m", "tests.benchmarks.peers", *sys.argv[1:], "--only", word]
    variables = environment(1, compose_settings([]).layout) if launched or name.startswith(OURS) else {}
    ran = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if ran.returncode:
        print(ran.stderr[-4000:], file=sys.stderr)
        return {"error": (ran.stderr.strip().splitlines() or ["?"])[-1]}
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(f"{name}: {result}", file=sys.stderr, flush=True)
    return result


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of `--steps` steps after two, with the largest micro-batch that fits."""
    import torch

    from model.flops import flops_per_token
    from tests.benchmarks.contenders import Job, builder
    from train.hardware import measured_tflops, peak_memory_bytes

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    device, precision = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Precision(arguments.precision)
    model = shape_of(arguments)
    generator = torch.Generator().manual_seed(0)
    size = (arguments.sequences, arguments.tokens + 1)
    rows = torch.randint(0, arguments.vocabulary, size, generator=generator).to(device)
    micro_batch = arguments.micro_batch or arguments.sequences
    while True:
        began = time.perf_counter()
        try:
            torch.manual_seed(0)
            step = builder(name)(Job(model, arguments.sequences, micro_batch, precision, device))
            loss = step(rows)
            start_seconds = time.perf_counter() - began
            step(rows)
            break
        except torch.OutOfMemoryError:
            if micro_batch == 1:
                raise
        micro_batch //= 2
        step = None
        gc.collect()
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(arguments.steps):
        began = time.perf_counter()
        step(rows)
        seconds.append(time.perf_counter() - began)
    memory = peak_memory_bytes(device) / 2**30
    tokens_per_second = arguments.sequences * arguments.tokens / statistics.median(seconds)
    step = None
    return {
        "tokens_per_second": tokens_per_second,
        "tflops": tokens_per_second * flops_per_token(model) / 1e12,
        "peak_tflops": measured_tflops(device, precision),
        "memory_gib": memory,
        "micro_batch": micro_batch,
        "loss": loss,
        "start_seconds": start_seconds,
    }


def shape_of(arguments: argparse.Namespace) -> Any:
    """The model that every contender trains."""
    model = compose_settings([f"model={arguments.model}"]).model
    model = replace(model, vocab_size=arguments.vocabulary, context_length=arguments.tokens)
    if arguments.width:
        model = replace(model, n_embd=arguments.width, n_head=arguments.width // 64)
    return replace(model, n_layer=arguments.layers or model.n_layer)


def describe(found: dict[str, list[dict[str, Any]]], model: Any, arguments: argparse.Namespace) -> str:
    """A Markdown table of the medians over the rounds."""
    columns = [
        "tokens/s",
        "of the best peer",
        "TFLOP/s",
        "of the matmul peak",
        "micro-batch",
        "memory",
        "first step",
        "first loss",
    ]
    lines = [
        f"{model.n_layer} layers of width {model.n_embd}, {arguments.sequences} x {arguments.tokens} tokens, "
        f"vocabulary {model.vocab_size}, {arguments.precision}; medians of {arguments.rounds} rounds of "
        f"{arguments.steps} steps.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    medians = {
        name: {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]}
        for name, rounds in found.items()
        if not any("error" in each for each in rounds)
    }
    peers = [each["tokens_per_second"] for name, each in medians.items() if not name.startswith(OURS)]
    for name, rounds in found.items():
        if name not in medians:
            lines.append(
                f"| {name} | {next(each['error'] for each in rounds if 'error' in each)} |" + " |" * (len(columns) - 1)
            )
            continue
        each = medians[name]
        beside = f"{each['tokens_per_second'] / max(peers):.2f}x" if peers else ""
        lines.append(
            f"| {name} | {each['tokens_per_second']:,.0f} | {beside} | {each['tflops']:.3g} | "
            f"{each['tflops'] / each['peak_tflops']:.0%} | {each['micro_batch']:.0f} | {each['memory_gib']:.2f} GiB | "
            f"{each['start_seconds']:.1f} s | {each['loss']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
