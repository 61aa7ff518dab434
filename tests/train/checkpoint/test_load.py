"""Damage is found, named, and costs no more than the steps since the checkpoint before."""

import json
from functools import partial
from pathlib import Path

from conf.checksums import OWN, seal
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.weights import Weights, memory_reader, refuse_damaged
from tests.train.checkpoint import test_load, test_save
from tests.worlds import Worlds, mesh_of
from train.checkpoint.files import checkpoints
from train.checkpoint.load import damage_of, newest_checkpoint


def found(folder: Path) -> tuple[str, list[str]]:
    """The checkpoint that a run would resume from, or why there is none, and what it is told meanwhile."""
    said: list[str] = []
    try:
        return str(newest_checkpoint(folder, mesh_of(), said.append)), said
    except ConfigError as error:
        return str(error), said


def refused(weights: Weights) -> str | None:
    """Why the weights are not read; None where they are."""
    try:
        refuse_damaged(weights, partial(damage_of, mesh=mesh_of()))
    except ConfigError as error:
        return str(error)
    return None


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
    workers.run(test_save.saved_three_times, tmp_path)
    older, newer = checkpoints(tmp_path)
    assert workers.run(test_load.found, tmp_path) == [(str(newer), [])] * 2
    files = [path for path in newer.rglob("*") if path.is_file() and path.name != "state.json"]
    assert len(files) > 2, "each process reads some"
    for damage, words in DAMAGES:
        for path in files:
            whole = path.read_bytes()
            damage(path)
            for taken, said in workers.run(test_load.found, tmp_path):
                assert taken == str(older)
                assert len(said) == 1 and f"{newer} is damaged: {path.relative_to(newer)} " in said[0]
                assert words in said[0] and "\n" not in said[0]
            path.write_bytes(whole)
    state = newer / "state.json"
    whole = state.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        state.write_bytes(content)
        for taken, said in workers.run(test_load.found, tmp_path):
            assert taken == str(older) and len(said) == 1 and "state.json is empty or cut off" in said[0]
    earlier = {key: value for key, value in json.loads(whole).items() if key != OWN}  # without a checksum of its own
    state.write_text(json.dumps({**earlier, "xxh3_64": {}}))
    for taken, said in workers.run(test_load.found, tmp_path):
        assert taken == str(older) and len(said) == 1 and "state.json does not have every checksum" in said[0]
    state.write_bytes(whole)
    flip(files[0])
    flip(next(path for path in older.rglob("*.safetensors")))
    for why, said in workers.run(test_load.found, tmp_path):
        assert "holds no undamaged checkpoint" in why and "\n" not in why and len(said) == 2
    assert workers.run(test_load.found, tmp_path / "none") == [("None", [])] * 2


def test_every_process_refuses_damaged_weights(tmp_path: Path, tiny: ModelConfig, worlds: Worlds) -> None:
    """They share the reading; folders of earlier versions have no checksums."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("one", "two", "three"):
        (folder / name).write_bytes(name.encode() * 100)
    weights = Weights("test", tmp_path, tiny, None, "test", memory_reader, sealed=(folder,))
    workers = worlds(2)
    assert workers.run(test_load.refused, weights) == [None] * 2
    seal(folder)
    assert workers.run(test_load.refused, weights) == [None] * 2
    for name in ("one", "two", "three"):
        flip(folder / name)
        said = f"{folder} is damaged: {name} does not match its checksum; bring it back from a copy, or import it again"
        assert workers.run(test_load.refused, weights) == [said] * 2
        flip(folder / name)
