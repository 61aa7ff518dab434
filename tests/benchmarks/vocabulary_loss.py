"""Memory and time of the chunked vocabulary loss against full logits: `python -m tests.benchmarks.vocabulary_loss`.

Each row runs in a process of its own; memory is the increase of the process's peak by the loss and its gradients.
"""

import argparse
import subprocess
import sys
import time


def main() -> None:
    """Print a row for full logits and one for each chunk size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=51200)
    parser.add_argument("--chunks", type=int, nargs="+", default=[4096, 2048, 1024, 512, 256], metavar="TOKENS")
    parser.add_argument("--chunk", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.chunk is not None:
        print(*measure(arguments))
        return
    print(f"{arguments.tokens} tokens of width {arguments.width}, vocabulary {arguments.vocabulary}, fp32")
    for chunk in (0, *arguments.chunks):
        command = [sys.executable, "-m", "tests.benchmarks.vocabulary_loss", *sys.argv[1:], f"--chunk={chunk}"]
        ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        memory, seconds = (float(text) for text in ran.stdout.split()[-2:])
        name = f"chunks of {chunk} tokens" if chunk else "full logits (torch)"
        print(f"{name:24}{memory / 2**30:8.2f} GiB{seconds:8.2f} s", flush=True)


def measure(arguments: argparse.Namespace) -> tuple[float, float]:
    """(bytes added, seconds) of one loss with its backward pass; --chunk 0 is torch with full logits."""
    import torch

    from parallel.cross_entropy import LossOptions, chunked_cross_entropy
    from parallel.mesh import TensorParallelGroup
    from train.hardware import peak_memory_bytes

    torch.manual_seed(0)
    hidden = torch.randn(1, arguments.tokens, arguments.width, requires_grad=True)
    weight = torch.randn(arguments.vocabulary, arguments.width).mul_(0.02).requires_grad_()
    bias = torch.zeros(arguments.vocabulary, requires_grad=True)
    labels = torch.randint(0, arguments.vocabulary, (1, arguments.tokens))
    before, start = peak_memory_bytes(torch.device("cpu")), time.perf_counter()
    if arguments.chunk:
        options = LossOptions(0.0, arguments.chunk, TensorParallelGroup())
        loss = chunked_cross_entropy(hidden, weight, bias, labels, options)
    else:
        logits = torch.nn.functional.linear(hidden, weight, bias)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss.backward()
    return peak_memory_bytes(torch.device("cpu")) - before, time.perf_counter() - start


if __name__ == "__main__":
    main()
