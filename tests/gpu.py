"""Everything that needs a GPU, in one command: `python -m tests.gpu` takes under ten minutes on one.

The tests marked `gpu` (on NCCL) and the quickstart beside each other; then, each alone on the GPU, the kernels beside
their bounds and training steps of the 350M and 2.7B shapes beside the peers. It appends a dated section to
tests/benchmarks/RESULTS.md, and ends with 1 where a part failed. Words name the parts to run: `python -m tests.gpu
kernels 2b`.
"""

import argparse
import datetime
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

RESULTS = Path(__file__).parent / "benchmarks" / "RESULTS.md"
PEERS = "python -m tests.benchmarks.peers --precision bf16 --layers 0 --tokens 2048 --sequences 32"
TESTS = "python -m pytest -m gpu -q --timeout=120"
PARTS: dict[str, tuple[str, int]] = {  # command, and the seconds that it may take
    "tests": (f"{TESTS} tests/model/kernels tests/parallel/test_main_gradient.py tests/train/test_meter.py", 150),
    "parity": (f"{TESTS} tests/parity/test_gpu.py", 150),
    "quickstart": ("python -m launch experiment=quickstart run.root={folder}", 120),
    "kernels": ("python -m tests.benchmarks.kernels", 60),
    "350m": (
        f"{PEERS} --model 350m --micro-batch 8 --steps 3 --contenders this_stack olmo_core plain_gpt megatron_core",
        190,
    ),
    "2b": (
        f"{PEERS} --model 2b --micro-batch 4 --steps 3 "
        "--contenders this_stack this_stack:layout.precision=fp8 olmo_core",
        195,
    ),
}
TOGETHER = [("tests", "parity", "quickstart"), ("kernels",), ("350m",), ("2b",)]  # what is timed has the GPU to itself


def main() -> int:
    """Run the chosen parts and write what they printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Markdown file that gets the section")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        print("error: no CUDA device; python -m tests.gpu runs on one GPU", file=sys.stderr)
        return 2
    with arguments.results.open("a") as results:
        results.write(f"\n## {heading()}\n")
    failed = []
    for group in TOGETHER:
        names = [name for name in group if name in (arguments.parts or PARTS)]
        with ThreadPoolExecutor(len(group)) as pool, ended_with_this():
            for name, (seconds, code, output) in zip(names, pool.map(run, names), strict=True):
                failed += [name] if code else []
                with arguments.results.open("a") as results:
                    results.write(section(name, PARTS[name][0], seconds, code, output))
    print(f"failed: {', '.join(failed)}" if failed else "every part passed", flush=True)
    return int(bool(failed))


@contextmanager
def ended_with_this() -> Iterator[None]:
    """Where the block is interrupted, end the parts too: `timeout` keeps them from the terminal's signals."""
    try:
        yield
    except BaseException:
        for part in psutil.Process().children():
            part.terminate()
        raise


def heading() -> str:
    """Date, card, driver and versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    name = card[0] if card else torch.cuda.get_device_name()
    return f"{datetime.date.today()}, one {name} (driver), torch {torch.__version__}, python -m tests.gpu"


def run(part: str) -> tuple[float, int, str]:
    """(seconds, exit code, output) of a part, which is shown as it comes and ended after its seconds."""
    command, limit = PARTS[part]
    began, lines = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        words = ["timeout", "--kill-after=10", str(limit), *shlex.split(command.format(folder=folder))]
        words[3] = sys.executable
        print(f"{part}: $ {command}", flush=True)
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}  # among a table's rows
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
        ) as process:
            for line in process.stdout or ():
                print(f"{part}: {line}", end="", flush=True)
                lines.append(line)
    return time.monotonic() - began, process.returncode, "".join(lines)


def section(name: str, command: str, seconds: float, code: int, output: str) -> str:
    """What the results keep of a part: tables as they are, and its last line."""
    ended = "" if code == 0 else f", exit code {code}"
    tables = re.findall(r"^(?:[^\n|]+\n\n)?(?:\|.*\|\n)+", output, re.M)
    last = (output.strip().splitlines() or ["nothing was printed"])[-1]
    kept = "\n".join(tables) if tables else f"{last}\n"
    return f"\n`{command.format(folder='FOLDER')}` ({name}, {seconds:.0f} s{ended}):\n\n{kept}"


if __name__ == "__main__":
    sys.exit(main())
