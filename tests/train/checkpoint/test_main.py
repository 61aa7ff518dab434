"""`python -m train.checkpoint`: what a person sees and removes."""

from pathlib import Path

import pytest

from conf.checksums import checksum_of
from conf.compose import load_settings
from conf.run_folder import save_settings, stage_folder, write_json
from conf.schema import Settings
from train.checkpoint.__main__ import main


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Path:
    """A run with three checkpoints of its first stage, of which it keeps two, and the rest of a killed save."""
    save_settings(settings, tmp_path)
    folder = stage_folder(tmp_path, "nl") / "checkpoints"
    for step, kind in ((10, "crc32"), (20, "xxh3_64"), (30, "xxh3_64")):  # the first of before CRC-32 was left
        path = folder / f"step_{step:08d}"
        path.mkdir(parents=True)
        (path / "part").write_bytes(b"12345")
        state = {
            "score": 1.25 if step < 30 else None,
            "files": {"part": 5},
            kind: {"part": checksum_of(path / "part", kind)},
        }
        write_json(path / "state.json", state)
    (folder / "step_00000040.partial").mkdir()
    return tmp_path


def test_they_are_listed_and_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "step", "size", "bits", "per", "byte"]
    assert lines[1].startswith("nl          10 ") and len({len(line) for line in lines}) == 1, "columns"
    assert [line.split()[-1] for line in lines[1:]] == ["1.2500", "1.2500", "-"], "the last was not evaluated"
    corpus = load_settings(run / "config.yaml").stages["nl"].corpus
    write_json(run / "stages/nl/evaluation.json", {"step": 30, "bits_per_byte": {corpus: 1.5}})
    assert main(["list", str(run)]) == 0
    assert capsys.readouterr().out.split()[-1] == "1.5000", "the stage has ended and was evaluated then"
    assert main(["verify", str(run)]) == 0
    assert capsys.readouterr().out.count("whole") == 3
    for step in (10, 20):
        (run / f"stages/nl/checkpoints/step_{step:08d}/part").write_bytes(b"12346")
    assert main(["verify", str(run)]) == 2
    said = capsys.readouterr()
    for step in (10, 20):
        assert f"nl          {step}  part does not match its checksum" in said.out
    assert said.err.startswith("error: 2 damaged")


def test_every_kind_of_damage_is_a_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run / "stages/nl/checkpoints"
    (folder / "step_00000010/state.json").write_text("")
    (folder / "step_00000020/state.json").write_text('{"files": {"part": 5}}')
    (folder / "step_00000030/part").unlink()
    assert main(["list", str(run)]) == 0
    assert main(["verify", str(run)]) == 2
    said = capsys.readouterr()
    assert [line.partition("  ")[2].strip() for line in said.out.splitlines()[4:]] == [
        "10  state.json is empty or cut off",
        "20  state.json does not have every checksum",
        "30  part is missing",
    ]
    assert said.err.startswith("error: 3 damaged") and said.err.count("\n") == 1


def test_what_is_not_kept_is_pruned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "stages/nl/checkpoints/step_00000030/part").unlink()
    assert main(["prune", str(run)]) == 0
    assert capsys.readouterr().out.count("removed ") == 2, "the killed save, and 30, which is not whole"
    left = sorted(path.name for path in (run / "stages/nl/checkpoints").iterdir())
    assert left == ["step_00000010", "step_00000020"]


def test_the_last_whole_checkpoint_is_never_pruned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed byte is no difference in size: by names and sizes the two newest would have been kept, both damaged."""
    folder = run / "stages/nl/checkpoints"
    for step in (20, 30):
        (folder / f"step_{step:08d}/part").write_bytes(b"12346")
    assert main(["prune", str(run)]) == 0
    assert [path.name for path in folder.iterdir()] == ["step_00000010"]
    assert main(["verify", str(run)]) == 0
    (folder / "step_00000010/part").write_bytes(b"12346")
    assert main(["prune", str(run)]) == 2
    assert "is damaged, none is removed (part does not match its checksum)" in capsys.readouterr().err
    assert (folder / "step_00000010/part").is_file()


@pytest.mark.parametrize("words", [[], ["list"], ["shorten", "run"]])
def test_other_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "list|verify|prune RUN" in capsys.readouterr().err
    assert main(["list", "nowhere"]) == 2
