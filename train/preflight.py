"""Before training: is every node fit? What is not is named, before a device or a step is spent on it."""

import os
import platform
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from conf.errors import NodeError, node_name
from conf.run_folder import run_folder
from conf.schema import Settings
from parallel.mesh import ProcessMesh
from parallel.rendezvous import join
from train.run_directory import git_state

CLOCK_SECONDS = 5.0  # clocks further apart than this mix up records and checkpoints
SHARED_SECONDS = 20.0  # how long a network file system may take to show another node's file

Facts = dict[str, Any]  # what one process tells of itself; JSON


def meet(settings: Settings) -> None:
    """Join the other processes and look at every node. Errors: `NodeError` naming who is missing or what is wrong."""
    folder = run_folder(settings)
    marks = folder.with_name(f".{folder.name}.preflight")

    def judge(everyone: Sequence[Facts]) -> list[str]:
        problems = list(_problems(everyone, settings.cluster.min_free_gib, marks))
        shutil.rmtree(marks, ignore_errors=True)
        return problems

    problems = join(settings.cluster.join_seconds, facts=_facts(settings, marks), judge=judge)
    if problems:
        raise NodeError("; ".join(problems))


def compare_clocks(mesh: ProcessMesh) -> None:
    """Errors: `NodeError` naming a node whose clock is off."""
    mesh.barrier()
    now = mesh.all_gather_object((node_name(), time.time()))
    middle = sorted(moment for _, moment in now)[len(now) // 2]
    late = {node: moment - middle for node, moment in now if abs(moment - middle) > CLOCK_SECONDS}
    if late:
        raise NodeError("; ".join(f"{node}: its clock is {seconds:+.1f} s off" for node, seconds in late.items()))


def _facts(settings: Settings, marks: Path) -> Facts:
    places = {"run.root": marks.parent, "data.cache": Path(settings.data.cache), "/tmp": Path(tempfile.gettempdir())}
    facts: Facts = {
        "node": node_name(),
        "devices": torch.cuda.device_count(),
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "DeepSpeed": version("deepspeed"),
            "code": git_state(Path(__file__).parent).get("commit", "")[:12],
        },
        "mark": None,
        "problem": None,
    }
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one process a node leaves a mark that the main process must see
            facts["mark"] = f"{facts['node']}-{uuid.uuid4().hex}"
            marks.mkdir(parents=True, exist_ok=True)
            (marks / facts["mark"]).write_text(facts["node"])
        facts["free_gib"] = {name: shutil.disk_usage(_existing(path)).free / 2**30 for name, path in places.items()}
    except OSError as error:
        facts["problem"] = str(error)
    return facts


def _problems(everyone: Sequence[Facts], min_free_gib: float, marks: Path) -> Iterator[str]:
    """What is wrong, a text for each node and matter. everyone: each process's facts, by rank."""
    ranks = Counter(facts["node"] for facts in everyone)
    usual = {
        name: Counter(facts["versions"][name] for facts in everyone).most_common(1)[0][0]
        for name in everyone[0]["versions"]
    }
    with_devices = any(facts["devices"] for facts in everyone)
    for node, facts in {facts["node"]: facts for facts in reversed(everyone)}.items():
        if facts["problem"]:
            yield f"{node}: {facts['problem']}"
            continue
        if with_devices and facts["devices"] < ranks[node]:
            yield f"{node}: {facts['devices']} devices for {ranks[node]} processes"
        for name, found in facts["versions"].items():
            if found != usual[name]:
                yield f"{node}: {name} {found or 'unknown'}, elsewhere {usual[name] or 'unknown'}"
        for place, free in facts["free_gib"].items():
            if free < min_free_gib:
                yield f"{node}: {free:.1f} GiB free for {place}; cluster.min_free_gib={min_free_gib:g}"
        if facts["mark"] and not _seen(marks / facts["mark"]):
            yield f"{node}: {everyone[0]['node']} cannot see its files in {marks.parent}; run.root must be shared"


def _seen(path: Path) -> bool:
    until = time.monotonic() + SHARED_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)
    return path.exists()


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)
