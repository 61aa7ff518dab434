"""What is wrong with a node is named with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.compose import compose_settings
from train.preflight import _problems


def report(node: str, **other: Any) -> dict[str, Any]:
    versions = {"Python": "3.12", "torch": "2.13", "DeepSpeed": "0.19", "code": "abc"}
    places = {"run.root": 100.0, "data.cache": 100.0, "/tmp": 50.0}
    return {
        "node": node,
        "devices": 2,
        "versions": versions | other.pop("versions", {}),
        "free_gib": places | other.pop("free_gib", {}),
        "gpu": None,
        "mark": None,
        "problem": None,
        **other,
    }


def problems(*nodes: dict[str, Any], marks: Path = Path("/nowhere")) -> list[str]:
    everyone = [each for node in nodes for each in (node, {**node, "mark": None})]
    cluster = replace(compose_settings([]).cluster, shared_folder_seconds=0.1)
    return list(_problems(everyone, cluster, marks))


def test_equal_nodes_with_room_are_fit() -> None:
    assert problems(report("n1"), report("n2"), report("n3")) == []


def test_each_unfit_node_is_named_with_what_is_wrong() -> None:
    assert problems(report("n1"), report("n2", devices=1), report("n3")) == ["n2: 1 devices for 2 processes"]
    assert problems(report("n1"), report("n2"), report("n3", versions={"torch": "2.11"})) == [
        "n3: torch 2.11, elsewhere 2.13"
    ]
    assert problems(report("n1", free_gib={"/tmp": 0.25}), report("n2")) == [
        "n1: 0.2 GiB free for /tmp; cluster.min_free_gib=1"
    ]
    assert problems(report("n1"), report("n2", problem="[Errno 28] No space left on device")) == [
        "n2: [Errno 28] No space left on device"
    ]
    assert len(problems(report("n1", devices=0, versions={"code": "x"}), report("n2"), report("n3"))) == 2


def test_tasks_that_each_see_one_gpu_are_fit_unless_they_share_it() -> None:
    def said(*gpus: str) -> list[str]:
        cluster = replace(compose_settings([]).cluster, shared_folder_seconds=0.1)
        return list(_problems([report("n1", devices=1, gpu=gpu) for gpu in gpus], cluster, Path("/nowhere")))

    assert said("GPU-a", "GPU-b", "GPU-c") == []
    assert said("GPU-a", "GPU-a", "GPU-b") == ["n1: 1 devices for 3 processes"]


def test_a_cpu_cluster_needs_no_devices() -> None:
    assert problems(report("n1", devices=0), report("n2", devices=0)) == []


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    (tmp_path / "n1-1").touch()
    said = problems(report("n1", mark="n1-1"), report("n2", mark="n2-1"), marks=tmp_path)
    assert len(said) == 1 and said[0].startswith("n2: n1 cannot see its files in")
