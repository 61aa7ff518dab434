"""Training step of this stack against Hugging Face's CodeGen with torch's AdamW: tokens/s and peak memory.

`python -m tests.benchmarks.step` measures 4 layers of the 350M width, 1 x 1024 tokens, vocabulary 51,200. All
contenders have the same initial weights, shape and precision, and run in a process each, to measure its peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

HEAD_DIM = 64
HEADS_MULTIPLE = 4  # Hugging Face's CodeGen splits the heads into 4 groups


def main() -> None:
    """Measure every contender and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=51200)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--only", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.width % (HEAD_DIM * HEADS_MULTIPLE):
        parser.error(f"--width {arguments.width} is not a multiple of {HEAD_DIM * HEADS_MULTIPLE}")
    if arguments.only:
        print(json.dumps(measure(CONTENDERS[arguments.only](arguments), arguments)))
        return
    shape = f"{arguments.layers} layers of width {arguments.width}, 1 x {arguments.tokens} tokens"
    print(f"{shape}, vocabulary {arguments.vocabulary}, {arguments.precision}, {os.cpu_count()} cores")
    print(f"{'':34}{'tokens/s':>10}{'of HF':>8}{'memory':>11}{'first loss':>12}{'start-up':>10}")
    baseline = None
    for name in arguments.contenders:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.step", *sys.argv[1:], "--only", name],
            stdout=subprocess.PIPE,
            check=True,
        )
        result = json.loads(ran.stdout.decode().splitlines()[-1])
        baseline = baseline or result["tokens_per_second"]
        print(
            f"{name:34}{result['tokens_per_second']:>10,.0f}{result['tokens_per_second'] / baseline:>7.2f}x"
            f"{result['memory_gib']:>7.2f} GiB{result['loss']:>12.4f}{result['start_seconds']:>8.1f} s",
            flush=True,
        )


def measure(step: Callable[[], float], arguments: argparse.Namespace) -> dict[str, float]:
    """Median tokens/s of `--steps` steps after two of warm-up, the seconds of those, peak memory, first loss."""
    import torch

    from train.hardware import peak_memory_bytes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = time.perf_counter()
    loss = step()
    step()
    started = time.perf_counter() - start
    seconds = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {
        "tokens_per_second": arguments.tokens / sorted(seconds)[len(seconds) // 2],
        "memory_gib": peak_memory_bytes(device) / 2**30,
        "loss": loss,
        "start_seconds": started,
    }


def settings_of(arguments: argparse.Namespace, kernels: str):
    """This stack's settings with the benchmark's shape."""
    from conf.compose import compose_settings

    overrides = ["model=350m", f"kernels={kernels}", f"layout.precision={arguments.precision}", "optimizer.z_loss=0"]
    settings = compose_settings([*overrides, "layout.micro_batch_size=1"])
    shape = {"n_layer": arguments.layers, "n_embd": arguments.width, "vocab_size": arguments.vocabulary}
    shape |= {"n_head": arguments.width // HEAD_DIM, "context_length": arguments.tokens}
    return replace(settings, model=replace(settings.model, **shape))


def batch(arguments: argparse.Namespace):
    """Token ids `[1, tokens + 1]`."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, arguments.vocabulary, (1, arguments.tokens + 1), generator=generator)


def ours(kernels: str) -> Callable[[argparse.Namespace], Callable[[], float]]:
    """This stack's model, loss and optimizer on one process, without DeepSpeed."""

    def build(arguments: argparse.Namespace) -> Callable[[], float]:
        import torch

        from model.build import run_layers
        from model.init import init_layer
        from model.kernels import select_kernels
        from parallel.engine import Stack
        from parallel.mesh import TensorParallelGroup
        from train.optimizer import adamw

        settings, alone = settings_of(arguments, kernels), TensorParallelGroup()
        stack = Stack(*(build() for build in run_layers(settings, alone, select_kernels(settings.kernels))))
        for index, layer in enumerate(stack):
            init_layer(layer, index, settings.model, alone, seed=1)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        stack = stack.to(device, torch.bfloat16 if arguments.precision == "bf16" else torch.float32).train()
        optimizer = adamw(list(stack.named_parameters()), settings.optimizer, settings.model.n_layer)
        ids = batch(arguments).to(device)

        def step() -> float:
            loss = stack(ids[:, :-1], ids[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    return build


def huggingface(compile: bool) -> Callable[[argparse.Namespace], Callable[[], float]]:
    """Hugging Face's CodeGenForCausalLM with torch's AdamW."""

    def build(arguments: argparse.Namespace) -> Callable[[], float]:
        import torch

        from tests.twin import initial_weights, twin_of

        model = settings_of(arguments, "reference").model
        twin = twin_of(model, initial_weights(model, seed=1))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        twin = twin.to(device, torch.bfloat16 if arguments.precision == "bf16" else torch.float32).train()
        run = torch.compile(twin) if compile else twin
        optimizer = torch.optim.AdamW(twin.parameters(), lr=0.0, weight_decay=0.1)
        rows = batch(arguments).to(device)

        def step() -> float:
            logits = run(rows[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    return build


CONTENDERS = {
    "Hugging Face, eager": huggingface(compile=False),
    "Hugging Face, torch.compile": huggingface(compile=True),
    "this stack, kernels=eager": ours("eager"),
    "this stack, kernels=auto": ours("auto"),
}

if __name__ == "__main__":
    main()
