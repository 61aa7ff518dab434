"""What a checkpoint costs: how long training waits for it, and GB/s beside plain writes of the same files.

`python -m tests.benchmarks.checkpoint model=tiny` measures the quickstart's model in one process.
The share is of `--every` steps, the quickstart's saving interval. "Plain" is what one thread writes and syncs, no more;
the drain is measured alone and beside training, which on a CPU computes on the same cores. "Whole" is all from the copy
to the checkpoint's name; the one before is removed beside training. The process gets the launcher's variables.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from conf.compose import compose_settings
from launch.local import environment


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="settings, such as model=tiny")
    parser.add_argument("--every", type=int, default=250, help="optimizer steps between two saves")
    parser.add_argument("--steps", type=int, default=10, help="steps that are measured without and beside a save")
    parser.add_argument("--saves", type=int, default=15)
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    variables = environment(1, compose_settings(arguments.words, 1).layout)
    if not variables.items() <= os.environ.items():
        command = [sys.executable, "-m", "tests.benchmarks.checkpoint", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | variables, check=False).returncode)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Train, save beside training, and write the same files plainly."""
    import torch
    from torch import nn

    from conf.run_folder import read_records
    from conf.save_time import SAVES
    from model.build import run_layers
    from model.flops import layer_flops
    from model.init import init_layer
    from model.kernels import select_kernels
    from parallel.engine import build_engine
    from parallel.mesh import build_mesh
    from parallel.rendezvous import join
    from parallel.zero import deepspeed_config
    from train.checkpoint.files import Keep
    from train.checkpoint.save import Saver
    from train.optimizer import adamw

    settings = compose_settings(["layout.precision=fp32", *arguments.words], 1)
    join()
    mesh, batch = build_mesh(), settings.layout.micro_batch_size
    kernels = select_kernels(settings.kernels, mesh.device)

    def set_weights(layer: nn.Module, index: int) -> None:
        init_layer(layer, index, settings.model, mesh.tp, settings.run.seed)

    engine = build_engine(
        run_layers(settings, mesh.tp, kernels),
        set_weights,
        layer_flops(settings.model),
        partial(adamw, settings=settings.optimizer, n_layer=settings.model.n_layer),
        deepspeed_config(settings, batch, 1, settings.layout.precision),
        mesh,
    )
    ids = torch.randint(0, settings.model.vocab_size, (batch, settings.model.context_length + 1))
    engine.set_lr(1e-4)

    def step() -> float:
        started = time.perf_counter()
        engine.train_batch(iter([(ids[:, :-1], ids[:, 1:])] * engine.accumulation_steps))
        return time.perf_counter() - started

    step()
    alone = statistics.median(step() for _ in range(arguments.steps))
    saver, beside = Saver(engine, folder / "run/checkpoints", Keep(1), range(settings.model.n_layer + 2)), []
    for number in range(arguments.saves):
        saver.save({"step": number})
        while saver.pending is not None:
            beside.append(step())
            saver.poll()
    beside_training = read_records(folder / "run" / SAVES)
    plain, wholes = [], []
    for number in range(arguments.saves):  # in turn, so that both see the same disk
        started = time.perf_counter()
        saver.save({"step": arguments.saves + number})
        saver.complete()
        wholes.append(time.perf_counter() - started)
        saver.wait()
        plain.append(write_plainly(folder, number))
    costs = read_records(folder / "run" / SAVES)[arguments.saves :]
    stall = statistics.median(cost["stall_seconds"] for cost in beside_training)
    busy, drain = (statistics.median(c["drain_seconds"] for c in each) for each in (beside_training, costs))
    writes, whole = statistics.median(plain), statistics.median(wholes)
    size = costs[-1]["bytes"] / 1e9
    during = statistics.median(beside)
    print(f"{settings.model.name}, {size:.3f} GB; a step {alone:.3f} s alone, {during:.3f} s beside a save")
    print(f"stall  {stall:8.3f} s  {stall / (arguments.every * alone):.2%} of {arguments.every} steps")
    print(f"drain  {drain:8.3f} s  {size / drain:.3f} GB/s, {writes / drain:.0%} of plain writes")
    print(f"beside {busy:8.3f} s  {size / busy:.3f} GB/s, {writes / busy:.0%}, while the same processor trains")
    print(f"whole  {whole:8.3f} s  {size / whole:.3f} GB/s, {writes / whole:.0%}, with the copy and the publishing")
    print(f"plain  {writes:8.3f} s  {size / writes:.3f} GB/s")
    engine.destroy()


def write_plainly(folder: Path, number: int) -> float:
    """Seconds that one thread takes for the newest checkpoint's files: new ones, each synced, as the saver's are.

    The copy before is removed first, as the saver has removed its.
    """
    from train.checkpoint.files import checkpoints, write_synced

    files = sorted(checkpoints(folder / "run/checkpoints")[-1].rglob("*.safetensors"))
    contents = [path.read_bytes() for path in files]
    shutil.rmtree(folder / f"plain_{number - 1}", ignore_errors=True)
    target = folder / f"plain_{number}"
    target.mkdir()
    started = time.perf_counter()
    for index, content in enumerate(contents):
        write_synced(target / str(index), content)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
