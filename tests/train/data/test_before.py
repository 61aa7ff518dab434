"""What takes more than the settings to tell is refused before data is prepared."""

import json
from pathlib import Path

import pytest

from conf.choices import ClusterKind
from conf.compose import compose_settings
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from train.data.before import refuse_before_data


def test_problems_are_read_where_this_machine_trains(tmp_path: Path) -> None:
    problems = tmp_path / "own.jsonl"
    problems.write_text('{"task_id": "a"}\n')
    words = f"'problems={problems}', 'k=[1]', 'max_new_tokens=9', 'sandbox={ALLOWED.name}'"
    settings = compose_settings([f"evaluation.tasks={{humaneval: {{every: 1, samples: 2, settings: [{words}]}}}}"])
    with pytest.raises(ConfigError, match=r"^evaluation\.tasks\.humaneval: .*own\.jsonl:1 is no problem: prompt, "):
        refuse_before_data(settings)
    settings.cluster.kind = ClusterKind.slurm  # who prepares there may be no node that trains
    refuse_before_data(settings)


def test_weights_on_the_hub_that_are_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # reads its cache only
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots/abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    (cached / "snapshots/abc/config.json").write_text(json.dumps({"n_embd": 1024}))
    settings = compose_settings(["stage=mono", "stages.mono.init_from=owner/name"])
    with pytest.raises(ConfigError, match=r"init_from=owner/name holds another model: model\.n_embd is 1024 there"):
        refuse_before_data(settings)
    (cached / "snapshots/abc/config.json").write_text(json.dumps({"n_embd": settings.model.n_embd}))
    refuse_before_data(settings)
