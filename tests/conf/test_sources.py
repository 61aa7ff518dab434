"""What a name of weights stands for."""

from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.sources import holds_weights, is_hub_name, is_run, tokenizer_source


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


def test_a_tokenizer_comes_from_its_own_setting_or_the_first_stage_s_parent() -> None:
    parent, words = "stages.nl.init_from", ["stages.nl.init_from=owner/one", "stages.mono.init_from=owner/two"]
    assert tokenizer_source(compose_settings([])) is None
    assert tokenizer_source(compose_settings(words[1:])) is None, "the run's own is trained for its first stage"
    assert tokenizer_source(compose_settings(words)) == (parent, "owner/one")
    given = compose_settings([*words, "data.tokenizer.path=owner/three"])
    assert tokenizer_source(given) == ("data.tokenizer.path", "owner/three")
