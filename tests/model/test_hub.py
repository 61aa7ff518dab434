"""A folder here is taken as it is; everything else that is no reachable repository is one line."""

from pathlib import Path

import pytest

from conf.errors import ConfigError
from model.hub import local_folder


def test_a_folder_stands_for_itself(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path), ["config.json"]) == tmp_path


def test_what_is_no_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # reads its cache only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "file").touch()
    for source, said in (
        (tmp_path / "file", "is a file; a folder is needed"),
        (tmp_path / "none", "does not exist, and names on the hub are written owner/name"),
        ("nobody/never-cached", "is no folder here and cannot be fetched from the Hugging Face hub"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            local_folder(source, ["config.json"], "init_from")
        assert str(caught.value).startswith(f"init_from={source} ") and "\n" not in str(caught.value)
