"""Checks of every node before training: devices, versions, disk, shared folder, clock. An unfit node is named."""

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

from conf.choices import ClusterKind
from conf.errors import MissingError, NodeError, node_name
from conf.run_folder import run_folder
from conf.run_lock import owner
from conf.schema import ClusterConfig, Settings
from parallel.mesh import ProcessMesh
from parallel.rendezvous import join
from train.gpu_node import compiler_problem, cuda_problem, torch_problem
from train.run_directory import git_state

Report = dict[str, Any]  # of one process about its node; JSON


def run_preflight(settings: Settings) -> None:
    """Join the other processes and check every node. Errors: `NodeError` naming missing ranks or unfit nodes."""
    folder = run_folder(settings)
    marks = folder.with_name(f".{folder.name}.preflight-{owner()}")  # two launches do not remove each other's

    def validate(reports: Sequence[Report]) -> list[str]:
        problems = list(_problems(reports, settings.cluster, marks))
        shutil.rmtree(marks, ignore_errors=True)
        return problems

    cluster = settings.cluster
    try:
        problems = join(
            cluster.join_seconds, cluster.collective_seconds, report=_report(settings, marks), validate=validate
        )
    except MissingError as error:
        raise NodeError(f"{error}{_offer(settings, error.ranks)}") from None
    if problems:
        raise NodeError("; ".join(problems))


def _offer(settings: Settings, came: Sequence[int]) -> str:
    """How the run resumes with the nodes all of whose processes came, as a clause; said by the main process alone."""
    from train.plan.fewer import fewer_hosts, fewer_nodes  # the planner is loaded only where something is missing

    if os.environ["RANK"] != "0":
        return ""
    if settings.cluster.kind is ClusterKind.hostfile:
        if settings.cluster.spares:  # one takes the place, as the launcher says
            return ""
        ranks = os.environ["NODES"].split()
        words = fewer_hosts(settings, ranks, {host for rank, host in enumerate(ranks) if rank not in came})
    elif settings.cluster.nodes == 1:
        return ""
    else:
        per_node = int(os.environ["WORLD_SIZE"]) // settings.cluster.nodes
        whole = sum(count == per_node for count in Counter(rank // per_node for rank in came).values())
        words = fewer_nodes(settings, whole)
    return f"; to resume without, launch again with {' '.join(words)}" if words else ""


def compare_clocks(mesh: ProcessMesh, max_skew_seconds: float) -> None:
    """Errors: `NodeError` naming a node whose clock differs from the median by more than `max_skew_seconds`."""
    mesh.barrier()
    times = mesh.all_gather_object((node_name(), time.time()))
    middle = sorted(moment for _, moment in times)[len(times) // 2]
    skewed = {node: moment - middle for node, moment in times if abs(moment - middle) > max_skew_seconds}
    if skewed:
        raise NodeError("; ".join(f"{node}: its clock is {seconds:+.1f} s off" for node, seconds in skewed.items()))


def _report(settings: Settings, marks: Path) -> Report:
    folders = {"run.root": marks.parent, "data.cache": Path(settings.data.cache), "/tmp": Path(tempfile.gettempdir())}
    report: Report = {
        "node": node_name(),
        "devices": torch.cuda.device_count(),
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "DeepSpeed": version("deepspeed"),
            "code": git_state(Path(__file__).parent).get("commit", "")[:12],
        },
        "gpu": _only_gpu(),
        "mark": None,
        "problem": torch_problem() or cuda_problem() or (_compiles_on_gpu(settings) and compiler_problem()) or None,
    }
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the main process must see one file of each node
            report["mark"] = f"{report['node']}-{uuid.uuid4().hex}"
            marks.mkdir(parents=True, exist_ok=True)
            (marks / report["mark"]).write_text(report["node"])
        report["free_gib"] = {name: shutil.disk_usage(_existing(path)).free / 2**30 for name, path in folders.items()}
    except OSError as error:
        report["problem"] = str(error)
    return report


def _only_gpu() -> str | None:
    """The id of the GPU of a process that sees one; None where it sees none or several."""
    return str(torch.cuda.get_device_properties(0).uuid) if torch.cuda.device_count() == 1 else None


def _compiles_on_gpu(settings: Settings) -> bool:
    return settings.kernels.compile and torch.cuda.device_count() > 0


def _problems(reports: Sequence[Report], cluster: ClusterConfig, marks: Path) -> Iterator[str]:
    """What is wrong, one text per node and problem. reports: of every process, by rank."""
    ranks = Counter(report["node"] for report in reports)
    usual = {
        name: Counter(report["versions"][name] for report in reports).most_common(1)[0][0]
        for name in reports[0]["versions"]
    }
    with_devices = any(report["devices"] for report in reports)
    for node, report in {report["node"]: report for report in reversed(reports)}.items():
        if report["problem"]:
            yield f"{node}: {report['problem']}"
            continue
        own = {each["gpu"] for each in reports if each["node"] == node} - {None}  # where each process sees its own only
        if with_devices and max(report["devices"], len(own)) < ranks[node]:
            yield f"{node}: {report['devices']} devices for {ranks[node]} processes"
        for name, found in report["versions"].items():
            if found != usual[name]:
                yield f"{node}: {name} {found or 'unknown'}, elsewhere {usual[name] or 'unknown'}"
        for name, free in report["free_gib"].items():
            if free < cluster.min_free_gib:
                yield f"{node}: {free:.1f} GiB free for {name}; cluster.min_free_gib={cluster.min_free_gib:g}"
        if report["mark"] and not _appears(marks / report["mark"], cluster.shared_folder_seconds):
            yield f"{node}: {reports[0]['node']} cannot see its files in {marks.parent}; run.root must be shared"


def _appears(path: Path, seconds: float) -> bool:
    """Whether `path` exists within `seconds`."""
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)
    return path.exists()


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return path if path.exists() or path == path.parent else _existing(path.parent)
