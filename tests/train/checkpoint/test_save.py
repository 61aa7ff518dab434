"""Saves beside training: whole or nothing, on every process, and weights that come back."""

import platform
import resource
import shutil
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conf.checksums import damage
from conf.choices import Recompute
from conf.errors import HealthError, NodeError
from conf.run_folder import read_json, read_records
from conf.schema import ModelConfig
from model.codegen import Block
from model.kernels import REFERENCE
from model.weights import Weights, layers_in, load_layer
from parallel.mesh import TensorParallelGroup
from tests.train.checkpoint import test_save
from tests.worlds import Worlds, mesh_of
from train.checkpoint.files import Keep, checkpoints, is_complete, write_synced
from train.checkpoint.save import Save, Saver, Writer, _publish, is_finite, serialise


def saver_of(engine: Any, folder: Path, keep: int = 1) -> Saver:
    return Saver(engine, folder, Keep(keep), layers=range(5))


def weights_in(folder: Path, model: ModelConfig) -> Weights:
    return Weights("test", folder, model, None, "test", layers_in(folder))


def block_of(model: ModelConfig, tp: TensorParallelGroup) -> Block:
    return Block(model, tp, REFERENCE, Recompute.none, 1)


def saved_and_loaded(folder: Path, stage: int) -> None:
    """The weights of a live engine after a step, written a layer a file, are the engine's and load into any layer."""
    from tests.parity.cases import engine_of, micro_batches, settings_of

    settings, mesh = settings_of([f"layout.zero_stage={stage}"]), mesh_of()
    engine = engine_of(settings, mesh)
    engine.set_lr(0.01)
    engine.train_batch(micro_batches(0, settings, mesh))
    expected = {name: value for name, value in engine.full_state() if value is not None}
    saver = saver_of(engine, folder / "checkpoints")
    saver.save_weights(folder / "weights")
    (folder / "weights" / "stale").write_text("")
    saver.save_weights(folder / "weights")
    assert sorted(path.name for path in folder.iterdir()) == ["weights"]
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [
        *(f"layer_{index:03d}.safetensors" for index in range(settings.model.n_layer + 2)),
        "state.json",
    ]
    assert damage(folder / "weights") is None
    layer = block_of(settings.model, TensorParallelGroup())
    load_layer(weights_in(folder / "weights", settings.model), layer, 2, TensorParallelGroup())
    for name, value in layer.named_parameters():
        assert torch.equal(value, expected[f"2.{name}"]), name
    engine.destroy()


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_live_engines_weights_come_back(stage: int, tmp_path: Path, worlds: Worlds) -> None:
    worlds(1).run(test_save.saved_and_loaded, tmp_path, stage)


def saved_three_times(folder: Path) -> None:
    """Saves that keep two, over what a killed save left; after step 5 the run has gone back to the beginning."""
    from tests.parity.cases import engine_of, settings_of

    engine = engine_of(settings_of([]), mesh_of())
    (folder / "step_00000003.partial").mkdir(parents=True, exist_ok=True)
    (folder / "step_00000003.partial" / "leftover").write_text("")
    saver = saver_of(engine, folder, keep=2)
    for step in (5, 1, 2, 3):
        saver.save({"step": step, "samples": 8 * step})
        saver.wait()
        assert is_complete(folder / f"step_{step:08d}")
    engine.destroy()


def test_a_save_is_whole_and_the_oldest_go(tmp_path: Path, worlds: Worlds) -> None:
    worlds(1).run(test_save.saved_three_times, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]
    state = read_json(tmp_path / "step_00000003" / "state.json")
    assert (state["step"], state["samples"]) == (3, 24)
    assert state["files"] and "leftover" not in state["files"]
    largest = max(state["files"], key=state["files"].get)
    with (tmp_path / "step_00000003" / largest).open("r+b") as file:
        file.truncate(state["files"][largest] - 1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000002"]


def saved_on_a_full_disk(folder: Path, full_rank: int, most_bytes: int) -> tuple[str, str]:
    """What a process says to a save of a checkpoint, and of weights, where one cannot write more than a few bytes."""
    from tests.parity.cases import engine_of, settings_of

    mesh, said = mesh_of(), []
    engine = engine_of(settings_of([]), mesh)
    saver = saver_of(engine, folder)
    saver.save({"step": 1})
    saver.wait()
    bound = resource.getrlimit(resource.RLIMIT_FSIZE)
    for save in (lambda: saver.save({"step": 2}), lambda: saver.save_weights(folder / "w")):
        if mesh.rank == full_rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, bound[1]))
        try:
            save()
            saver.wait()
        except NodeError as error:
            said.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, bound)
    engine.destroy()
    return said[0], said[-1]


@pytest.mark.parametrize(("full_rank", "most_bytes"), [(0, 5_000), (1, 5_000), (0, 0)])
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(
    full_rank: int, most_bytes: int, tmp_path: Path, worlds: Worlds
) -> None:
    for said in worlds(2).run(test_save.saved_on_a_full_disk, tmp_path, full_rank, most_bytes):
        for line, name in zip(said, ("step_00000002", "w"), strict=True):
            assert line.startswith(f"{platform.node()}: {tmp_path / name}.partial") and "\n" not in line
            assert "cannot be written (" in line and "File too large" in line
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoints(tmp_path) == [tmp_path / "step_00000001"]


def saved_beside_training(folder: Path) -> list[str]:
    """What is on the disk while the writers are held up, while a step is taken meanwhile, and afterwards."""
    from tests.parity.cases import engine_of, micro_batches, settings_of

    settings, mesh, seen = settings_of([]), mesh_of(), []
    engine = engine_of(settings, mesh)
    engine.set_lr(0.01)
    saver, gate = saver_of(engine, folder / "checkpoints", keep=2), threading.Event()
    expected = {name: value for name, value in engine.full_state() if value is not None}

    def held(path: Path, *parts: bytes | memoryview) -> None:
        gate.wait()
        write_synced(path, *parts)

    with patch("train.checkpoint.save.write_synced", held):
        saver.save({"step": 1})
        engine.train_batch(micro_batches(0, settings, mesh))
        saver.poll()
        mesh.barrier()
        seen.append(str([path.name for path in (folder / "checkpoints").iterdir()]))
        gate.set()
        saver.save({"step": 2})
        seen.append(str([path.name for path in checkpoints(folder / "checkpoints")]))
        mesh.barrier()
        saver.wait()
    seen.append(str([path.name for path in checkpoints(folder / "checkpoints")]))
    first = layers_in(folder / "checkpoints/step_00000001/weights")
    for name, value in expected.items():
        index, _, rest = name.partition(".")
        assert torch.equal(first(int(index))[rest], value), "the values are those of the moment of the save"
    engine.destroy()
    return seen


def test_training_goes_on_beside_a_save(tmp_path: Path, worlds: Worlds) -> None:
    """What is saved is the moment's; a second save waits for the first; nothing has a name before it is whole."""
    for seen in worlds(2).run(test_save.saved_beside_training, tmp_path):
        assert seen == ["['step_00000001.partial']", "['step_00000001']", "['step_00000001', 'step_00000002']"]
    costs = read_records(tmp_path / "saves.jsonl")
    assert [cost["step"] for cost in costs] == [1, 2]
    assert all(cost["bytes"] > 100_000 and cost["stall_seconds"] > 0 and cost["drain_seconds"] > 0 for cost in costs)


def removed_beside_training(folder: Path) -> list[list[str]]:
    """What is on the disk when a save is complete while the removal of the one before is held up, and afterwards."""
    from tests.parity.cases import engine_of, settings_of

    engine = engine_of(settings_of([]), mesh_of())
    saver, gate, own, seen = saver_of(engine, folder), threading.Event(), threading.get_ident(), []
    saver.save({"step": 1})
    saver.wait()
    rmtree = shutil.rmtree

    def held(path: Path, ignore_errors: bool = False) -> None:
        if threading.get_ident() != own:
            gate.wait()
        rmtree(path, ignore_errors=ignore_errors)

    with patch("shutil.rmtree", held):
        saver.save({"step": 2})
        saver.complete()
        seen.append(sorted(path.name for path in folder.iterdir()))
        gate.set()
        saver.wait()
    engine.destroy()
    return [*seen, sorted(path.name for path in folder.iterdir())]


def test_training_does_not_wait_for_the_removal_of_the_checkpoint_before(tmp_path: Path, worlds: Worlds) -> None:
    """It looks like no checkpoint from the first moment on."""
    (seen,) = worlds(1).run(test_save.removed_beside_training, tmp_path)
    assert seen == [["step_00000001.partial", "step_00000002"], ["step_00000002"]]


def not_finite(folder: Path) -> str:
    """What a save says where one process holds a weight that is not finite."""
    from tests.parity.cases import engine_of, settings_of

    engine, mesh = engine_of(settings_of(["layout.zero_stage=0"]), mesh_of()), mesh_of()
    saver, said = saver_of(engine, folder / "checkpoints"), ""
    next(engine.deepspeed.module.parameters()).data[3] = torch.inf
    try:
        saver.save({"step": 1})
        saver.wait()
    except HealthError as error:
        said = str(error)
    mesh.barrier()
    engine.destroy()
    return said


def test_another_nodes_late_file_is_waited_for_and_one_that_never_comes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network file system, where a file appears some time after its node has written it."""
    partial, folder = tmp_path / "step_00000001.partial", tmp_path / "step_00000001"
    partial.mkdir()
    save = Save(folder, partial, ["."], {"part"}, {"step": 1}, Writer(partial))
    monkeypatch.setattr("train.checkpoint.save.APPEARS_SECONDS", 0.2)
    why = _publish(save, {"part": (5, 0)})
    assert why is not None and "part was written elsewhere and does not appear here in 0.2 s" in why
    assert not folder.exists()
    monkeypatch.setattr("train.checkpoint.save.APPEARS_SECONDS", 60.0)
    late = threading.Timer(0.3, lambda: write_synced(partial / "part", b"1234", b"5"))
    late.start()
    assert _publish(save, {"part": (5, 0)}) is None
    assert is_complete(folder) and not partial.exists()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 777, -1])
def test_one_value_that_is_not_finite_is_found(wrong: float, place: int) -> None:
    values = np.linspace(-3e38, 3e38, 1001, dtype=np.float32).reshape(7, 143)
    assert is_finite(values)
    values.reshape(-1)[place] = wrong
    assert not is_finite(values)


def test_a_file_is_what_the_library_reads(tmp_path: Path) -> None:
    """Written without a copy of the values."""
    layer = {"a.weight": torch.randn(3, 5), "b": torch.randn(7), "one": torch.randn(1)[0]}
    write_synced(tmp_path / "whole", *serialise(layer))
    read = load_file(tmp_path / "whole")
    assert read.keys() == layer.keys() and all(torch.equal(read[name], value) for name, value in layer.items())
    assert (tmp_path / "whole").read_bytes() == b"".join(serialise(layer))


def test_nothing_that_is_not_finite_is_saved(tmp_path: Path, worlds: Worlds) -> None:
    for said in worlds(2).run(test_save.not_finite, tmp_path):
        assert "is not saved: weights/layer_000.safetensors: " in said and said.endswith("weight is not finite")
    assert list((tmp_path / "checkpoints").iterdir()) == []
