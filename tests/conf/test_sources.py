"""What a name of weights stands for."""

from pathlib import Path

import pytest

from conf.sources import holds_weights, is_hub_name, is_run


def test_a_hub_name_is_an_owner_that_is_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    assert is_hub_name("Salesforce/codegen-350M-mono")
    for name in ("typo", "runs/typo", "exported/typo", "/a/b", "a/b/c", "./a"):
        assert not is_hub_name(name) and not holds_weights(name)


def test_runs_stages_and_folders_of_weights_are_told_apart(tmp_path: Path) -> None:
    stage, exported = tmp_path / "run/stages/mono", tmp_path / "exported"
    (stage / "weights").mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    exported.mkdir()
    assert not holds_weights(str(exported))
    (exported / "config.json").touch()
    assert all(holds_weights(str(path)) for path in (tmp_path / "run", stage, exported))
    assert is_run(tmp_path / "run") and is_run(stage) and not is_run(exported)
    assert not is_run(Path("/nowhere")), "directly below the root"
