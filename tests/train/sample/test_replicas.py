"""The same samples, in the same order, whatever the number of processes and however they share the work."""

from pathlib import Path
from typing import Any

import pytest

from conf.commands import Sampling
from conf.errors import ConfigError
from model.flops import parameters
from parallel.mesh import single_process_mesh
from tests.train.sample.cases import MODEL, PROMPTS, Ids, generator_of
from tests.worlds import Worlds, mesh_of
from train.evaluate.programs import generate_samples
from train.sample import replicas
from train.sample.replicas import spread, tensor_parallel_size
from train.stop import StopSignal

WANTED = [{"task_id": task, "sample": sample} for task in range(len(PROMPTS)) for sample in range(3)]
SAMPLING = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.95, top_k=0, seed=0)


def sampled(path: str, tp: int, processes: int) -> tuple[list[dict[str, Any]], int]:
    """The completions of WANTED, and how many of them this process computed."""
    generator, own = generator_of(Ids(), tp), 0
    generator.mesh = mesh_of(tp) if processes > 1 else single_process_mesh()

    def complete(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nonlocal own
        own += len(batch)
        prompts = [PROMPTS[row["task_id"]] for row in batch]
        ids = generator.generate_ids(prompts, SAMPLING, [row["task_id"] * 100 + row["sample"] for row in batch])
        return [{**row, "completion": new} for row, new in zip(batch, ids, strict=True)]

    return generate_samples(Path(path), WANTED, 5, complete, generator.mesh, "sampling"), own


@pytest.mark.parametrize(("processes", "tp"), [(2, 1), (4, 2)])
def test_replicas_take_other_prompts_and_the_samples_are_the_same(
    processes: int, tp: int, worlds: Worlds, tmp_path: Path
) -> None:
    alone, _ = sampled(str(tmp_path / "alone.jsonl"), 1, 1)
    together = worlds(processes).run(sampled, str(tmp_path / "together.jsonl"), tp, processes)
    assert [rows for rows, _ in together] == [alone] * processes
    assert sum(own for _, own in together) == len(WANTED) * tp
    assert max(own for _, own in together) <= len(WANTED) // (processes // tp) + 1
    assert (tmp_path / "together.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def interrupted(stopped_rank: int) -> list[int]:
    """What was done when one of the ranks was asked to stop, in its first round."""
    mesh, done = mesh_of(1), []
    stop = StopSignal.__new__(StopSignal)  # without handlers of signals, which a world has of its own
    stop.signalled, stop.file = mesh.rank == stopped_rank, None
    with pytest.raises(KeyboardInterrupt):
        for results in spread(mesh, list(range(9)), 2, lambda batch: [10 * item for item in batch], stop):
            done += results
    return done


def test_all_stop_together_after_the_same_round(worlds: Worlds) -> None:
    assert worlds(2).run(interrupted, 1) == [[0, 10, 20, 30]] * 2


def test_as_few_share_a_matrix_as_hold_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensor_parallel_size(MODEL, 4, None, 4) == 1  # a CPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for devices, wanted in ((1.01, 1), (0.51, 2), (0.26, 4), (0.01, 4)):
        memory = int(devices * parameters(MODEL) * 2 / replicas.WEIGHTS_SHARE)
        monkeypatch.setattr(
            "torch.cuda.get_device_properties", lambda _, memory=memory: type("Device", (), {"total_memory": memory})
        )
        assert tensor_parallel_size(MODEL, 8, None, 2) == wanted
    assert tensor_parallel_size(MODEL, 8, 2, 2) == 2
    with pytest.raises(
        ConfigError, match=r"tensor_parallel_size=3 does not divide 8 processes.*use one of \[1, 2, 4\]"
    ):
        tensor_parallel_size(MODEL, 8, 3, 2)
