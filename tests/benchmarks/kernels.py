"""Each form of each operation of `model/kernels` by time, and as a share of what the device could do.

`python -m tests.benchmarks.kernels` prints a Markdown table: on a GPU for the shapes of 350m and 2b, micro-batch 8 x
2048, forward and backward; on a CPU for a small one. "of limit" is the least time that the bytes (at the bandwidth of a
large copy) or the arithmetic (at the rate of a large product, both measured first) need, over the time taken. The bytes
are those of the best fusion, the same for every form. The fastest form of an operation is marked.
"""

import argparse
import itertools
import statistics
import sys
import time
import timeit
from collections.abc import Iterator

import torch

from conf.compose import compose_settings
from tests.benchmarks.kernel_forms import OPERATIONS, Operation, Shape, Step

GIB = 2**30
SLEEP_CYCLES = 100_000_000  # of the GPU, 50 to 70 ms


def seconds(step: Step, device: torch.device, rounds: int) -> float:
    """Median time of `rounds` steps after two that do not count."""
    step(), step()
    if device.type == "cpu":
        return statistics.median(timeit.repeat(step, number=1, repeat=rounds))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    torch.cuda._sleep(SLEEP_CYCLES)  # meanwhile the steps are queued, so that starting kernels costs no time
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in itertools.pairwise(events)) / 1e3


def limits(shape: Shape, rounds: int) -> tuple[float, float]:
    """(bytes/s of a large copy, reads and writes counted; FLOP/s of a large product), of this device."""
    size = 8192 if shape.device.type == "cuda" else 512
    source = torch.ones(size, size, 4, device=shape.device)
    target, matrix = torch.empty_like(source), torch.randn(size, size, device=shape.device, dtype=shape.dtype)
    copy = seconds(lambda: target.copy_(source), shape.device, rounds)
    return 2 * source.nbytes / copy, 2 * size**3 / seconds(lambda: matrix @ matrix, shape.device, rounds)


def rows(name: str, operation: Operation, shape: Shape, limit: tuple[float, float], rounds: int) -> Iterator[str]:
    """The table's rows of one operation; the fastest form is in bold."""
    off = seconds(operation.subtract(), shape.device, rounds) if operation.subtract else 0.0
    least, taken, said = operation.bytes / limit[0] + operation.flops / limit[1], {}, {}
    for form, prepare in operation.forms.items():
        try:
            taken[form] = seconds(prepare(), shape.device, rounds) - off
        except Exception as error:  # a form that this device does not have, or too large for its memory
            said[form] = str(error).strip().partition("\n")[0][:100]
        torch._dynamo.reset()
    work = f"{operation.bytes / GIB:.2f} GiB" if operation.bytes else f"{operation.flops / 1e12:.3g} TFLOP"
    chosen = min(taken, key=taken.__getitem__, default=None)
    for form in operation.forms:
        shown = f"**{form}**" if form == chosen else form
        row = f"{taken[form] * 1e3:.3f} | {least / taken[form]:.1%}" if form in taken else f"{said[form]} |"
        yield f"| {name} | {shape.name} | {shown} | {work} | {row} |"


def main() -> None:
    """Measure the operations asked for and print the table, row by row."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS), metavar="NAME")
    parser.add_argument("--sizes", nargs="+", default=["350m", "2b"] if gpu else ["tiny"], metavar="MODEL")
    parser.add_argument("--batch", type=int, default=8 if gpu else 1, help="sequences of the micro-batch")
    parser.add_argument("--tokens", type=int, default=2048 if gpu else 64, help="of a sequence")
    parser.add_argument("--rounds", type=int, default=10 if gpu else 3, help="of which the median counts")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if gpu else "fp32")
    arguments = parser.parse_args()
    begin, dtype = time.perf_counter(), torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    name = torch.cuda.get_device_name() if gpu else "CPU"
    for size in arguments.sizes:
        model = compose_settings([f"model={size}"]).model
        numbers = model.n_embd, model.n_head, model.rotary_dim, model.vocab_size if gpu else 512
        shape = Shape(size, arguments.batch, arguments.tokens, *numbers, device, dtype)
        if size == arguments.sizes[0]:
            limit = limits(shape, arguments.rounds)
            print(f"{name}, torch {torch.__version__}, {dtype}, micro-batch {shape.batch} x {shape.seq}: a copy moves")
            print(f"{limit[0] / 1e9:.0f} GB/s, a product computes {limit[1] / 1e12:.3g} TFLOP/s.\n")
            print("| operation | size | form | needs | ms | of limit |\n|---|---|---|---:|---:|---:|")
        for operation in arguments.operations:
            try:
                for row in rows(operation, OPERATIONS[operation](shape), shape, limit, arguments.rounds):
                    print(row, flush=True)
            except Exception as error:
                print(f"| {operation} | {size} | {type(error).__name__}: {str(error)[:200]} | | | |", flush=True)
            if gpu:
                torch.cuda.empty_cache()
    print(f"\n{time.perf_counter() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
