"""Two processes under each kind of parallelism beside one process, on one thread each, and where the rest goes.

    python -m tests.benchmarks.scaling --rounds 3 --steps 5

Every layout trains the same batch of 8 sequences a step. `of ideal` is the time of one process over twice its own: 1
where two processes take half as long. The shares are of a step of the rank that waits more (`train/time_shares.py`).
Under load other programs count as idle or stretch everything: it is to run on a quiet machine.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from conf.compose import compose_settings
from conf.schema import Settings
from tests.benchmarks import scaling
from tests.parity.cases import engine_of, mesh_for, micro_batches
from tests.worlds import Worlds
from train.time_shares import KINDS, STEP, TimeShares, read_trace

LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "one process": (1, []),
    "tp2": (2, ["layout.tensor_parallel_size=2"]),
    "tp2, sequence parallel": (2, ["layout.tensor_parallel_size=2", "layout.sequence_parallel=true"]),
    "pp2": (2, ["layout.pipeline_parallel_size=2"]),
    "dp2, ZeRO-1": (2, []),
    "dp2, ZeRO-3": (2, ["layout.zero_stage=3"]),
}
WARM = 2  # steps before those that are timed: the first compiles


def settings_of(words: list[str], shape: dict[str, int]) -> Settings:
    """The settings of a run of `shape`, fields of the model, under the layout that `words` say."""
    settings = compose_settings(["model=tiny", "layout.precision=fp32", "layout.micro_batch_size=1", *words])
    return replace(settings, model=replace(settings.model, **shape))


def measure(words: list[str], shape: dict[str, int], steps: int) -> tuple[list[float], TimeShares]:
    """Seconds of each step in this process, and the shares of one more under the profiler."""
    settings = settings_of(words, shape)
    mesh = mesh_for(settings)
    engine = engine_of(settings, mesh)
    engine.set_lr(1e-4)
    seconds = []
    for step in range(WARM + steps):
        mesh.barrier()
        began = time.perf_counter()
        engine.train_batch(micro_batches(step, settings, mesh))
        engine.wait_for_weights()
        seconds.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU]) as trace, record_function(STEP):
        engine.train_batch(micro_batches(0, settings, mesh))
        engine.wait_for_weights()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        shares = read_trace(path)
    engine.destroy()
    return seconds[WARM:], shares


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("width", 512), ("tokens", 512), ("vocabulary", 8192), ("heads", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--words", nargs="*", default=[], help="settings of a run, such as kernels=eager")
    options = parser.parse_args()
    shape = {"n_layer": options.layers, "n_embd": options.width, "n_head": options.heads, "rotary_dim": 16}
    shape |= {"context_length": options.tokens, "vocab_size": options.vocabulary}
    worlds, times = Worlds(), dict[str, list[float]]((name, []) for name in LAYOUTS)
    shares: dict[str, TimeShares] = {}
    try:
        for _ in range(options.rounds):
            for name, (size, words) in LAYOUTS.items():
                found = worlds(size).run(scaling.measure, [*options.words, *words], shape, options.steps)
                times[name] += [max(each) for each in zip(*(seconds for seconds, _ in found), strict=True)]
                shares[name] = max((each for _, each in found), key=lambda each: each.spent["idle"])
    finally:
        worlds.close()
    print(f"| layout | ms a step | of ideal | {' | '.join(f'{kind}, %' for kind in KINDS)} |")
    print(f"|---|{'---:|' * (2 + len(KINDS))}")
    alone = statistics.median(times["one process"])
    for name, (size, _) in LAYOUTS.items():
        middle, spent = statistics.median(times[name]), shares[name]
        parts = " | ".join(f"{100 * spent.spent[kind] / spent.total:.1f}" for kind in KINDS)
        print(f"| {name} | {1000 * middle:.0f} | {alone / (size * middle):.2f} | {parts} |")


if __name__ == "__main__":
    main()
