"""What counts as a checkpoint, and weights that come back."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from conf.choices import Recompute
from conf.errors import ConfigError, NodeError
from conf.run_folder import read_json, write_json
from conf.schema import ModelConfig
from model.codegen import Block
from model.kernels import REFERENCE
from model.weights import Weights, layers_in, load_layer
from parallel.mesh import TensorParallelGroup
from tests.train import test_checkpoint
from tests.worlds import Worlds, mesh_of
from train.checkpoint import checkpoints, is_complete, newest_checkpoint, save_checkpoint, save_weights


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    (path / "part").write_bytes(b"12345")
    write_json(path / "state.json", {"step": step, "files": {"part": 5}})
    return path


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    whole, cut, short, unlisted = (checkpoint(tmp_path, step) for step in (2, 4, 6, 8))
    (cut / "part").unlink()
    (short / "part").write_bytes(b"1234")
    (unlisted / "state.json").unlink()
    checkpoint(tmp_path, 10).rename(tmp_path / "step_00000010.partial")
    assert checkpoints(tmp_path) == [whole]
    assert [is_complete(path) for path in (whole, cut, short, unlisted)] == [True, False, False, False]
    newer = checkpoint(tmp_path, 12)
    assert checkpoints(tmp_path) == [whole, newer]
    assert checkpoints(tmp_path / "none") == []


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
    save_weights(engine, folder / "weights")
    (folder / "weights" / "stale").write_text("")
    save_weights(engine, folder / "weights")
    assert sorted(path.name for path in folder.iterdir()) == ["weights"]
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [
        f"layer_{index:03d}.safetensors" for index in range(settings.model.n_layer + 2)
    ]
    layer = block_of(settings.model, TensorParallelGroup())
    load_layer(weights_in(folder / "weights", settings.model), layer, 2, TensorParallelGroup())
    for name, value in layer.named_parameters():
        assert torch.equal(value, expected[f"2.{name}"]), name
    engine.destroy()


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_live_engines_weights_come_back(stage: int, tmp_path: Path, worlds: Worlds) -> None:
    worlds(1).run(test_checkpoint.saved_and_loaded, tmp_path, stage)


def saved_three_times(folder: Path) -> None:
    """Saves that keep two, over what a killed save left; after step 5 the run has gone back to the beginning."""
    from tests.parity.cases import engine_of, settings_of

    engine = engine_of(settings_of([]), mesh_of())
    (folder / "step_00000003.partial").mkdir(parents=True, exist_ok=True)
    (folder / "step_00000003.partial" / "leftover").write_text("")
    for step in (5, 1, 2, 3):
        path = save_checkpoint(engine, folder, {"step": step, "samples": 8 * step}, keep=2)
        assert is_complete(path)
    engine.destroy()


def test_a_save_is_whole_and_the_oldest_go(tmp_path: Path, worlds: Worlds) -> None:
    worlds(1).run(test_checkpoint.saved_three_times, tmp_path)
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
    save_checkpoint(engine, folder, {"step": 1}, keep=1)
    bound = resource.getrlimit(resource.RLIMIT_FSIZE)
    for save in (lambda: save_checkpoint(engine, folder, {"step": 2}, 1), lambda: save_weights(engine, folder / "w")):
        if mesh.rank == full_rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, bound[1]))
        try:
            save()
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
    for said in worlds(2).run(test_checkpoint.saved_on_a_full_disk, tmp_path, full_rank, most_bytes):
        for line, name in zip(said, ("step_00000002", "w"), strict=True):
            assert line.startswith(f"{platform.node()}: {tmp_path / name}.partial") and "\n" not in line
            assert "cannot be written (" in line and "File too large" in line
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoints(tmp_path) == [tmp_path / "step_00000001"]


def found(folder: Path) -> tuple[str, list[str]]:
    """The checkpoint that a run would go on from, or why there is none, and what it is told meanwhile."""
    said: list[str] = []
    try:
        return str(newest_checkpoint(folder, mesh_of(), said.append)), said
    except ConfigError as error:
        return str(error), said


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = [
    (flip, "does not match its checksum"),
    (truncate, "bytes, not "),
    (Path.unlink, "is missing"),
]


def test_damage_is_named_and_the_checkpoint_before_is_taken(tmp_path: Path, worlds: Worlds) -> None:
    workers = worlds(2)
    workers.run(test_checkpoint.saved_three_times, tmp_path)
    older, newer = checkpoints(tmp_path)
    assert workers.run(test_checkpoint.found, tmp_path) == [(str(newer), [])] * 2
    files = [path for path in newer.rglob("*") if path.is_file() and path.name != "state.json"]
    assert len(files) > 2, "each process reads some"
    for damage, words in DAMAGES:
        for path in files:
            whole = path.read_bytes()
            damage(path)
            for taken, said in workers.run(test_checkpoint.found, tmp_path):
                assert taken == str(older)
                assert len(said) == 1 and f"{newer} is damaged: {path.relative_to(newer)} " in said[0]
                assert words in said[0] and "\n" not in said[0]
            path.write_bytes(whole)
    flip(files[0])
    flip(next(path for path in older.rglob("*.safetensors")))
    for why, said in workers.run(test_checkpoint.found, tmp_path):
        assert "holds no undamaged checkpoint" in why and "\n" not in why and len(said) == 2
    assert workers.run(test_checkpoint.found, tmp_path / "none") == [("None", [])] * 2
