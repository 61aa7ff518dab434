"""Chains of stages on a real Slurm of two nodes: trained, requeued, cut short, cancelled, broken."""

import contextlib
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from wandb.proto import wandb_internal_pb2

from conf.run_folder import read_metrics
from tests.canary import CANARIES, places
from tests.slurm import SlurmCluster, search_path, why_not
from tests.train.test_loop import ROOT, command, weights, write_corpora

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

STEPS = 150  # of each stage: enough to be met in the middle
SLURM = ["cluster=slurm", "nodes=2", "cluster.processes_per_node=1"]
LENGTHS = [*(f"stages.{name}.steps={STEPS}" for name in ("nl", "multi", "mono")), "run.save_every=100000"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm-corpora")
    write_corpora(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    started = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


def only(words: list[str], *stages: str) -> list[str]:
    """`words` for some of the stages."""
    others = tuple(f"stages.{name}." for name in ("nl", "multi", "mono") if name not in stages)
    return [word for word in words if not word.startswith(others)] + [f"stage={','.join(stages)}"]


def launch(cluster: SlurmCluster, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, env=cluster.variables, capture_output=True, text=True, timeout=300)


def manage(cluster: SlurmCluster, *words: str) -> str:
    done = launch(cluster, [*command(Path("."), "")[:3], *words])
    assert done.returncode == 0, done.stderr
    return done.stdout


def submitted(cluster: SlurmCluster, words: list[str]) -> list[str]:
    """Launch, and return the ids of the jobs it submitted."""
    done = launch(cluster, words)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("job ")[1].split(",")[0] for line in done.stdout.splitlines() if ": job " in line]


def wait_for(what: Callable[[], bool], seconds: float = 300, pause: float = 0.5) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(pause)


def step_of(run: Path, stage: str) -> int:
    return max((row["step"] for row in read_metrics(run) if row["stage"] == stage), default=0)


def halted(run: Path, stage: str) -> list[psutil.Process]:
    """The ranks, which stand still in the middle of a stage until they are woken: by `wake`, or by Slurm's SIGCONT."""
    wait_for(lambda: step_of(run, stage) >= 5, pause=0.05)
    found = ranks(run)
    for process in found:
        process.suspend()
    assert step_of(run, stage) < STEPS, "it was over before it was met"
    return found


def wake(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def logs(run: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted((run / "jobs").glob("*.log")))


@pytest.fixture(scope="module")
def undisturbed(corpora: Path) -> Path:
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}  # as Slurm's; the order of sums is the same then
    words = command(corpora, "undisturbed", *LENGTHS)
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return corpora / "runs" / "undisturbed"


@pytest.mark.timeout(1200)
def test_a_chain_that_is_requeued_cut_short_and_cancelled_ends_like_the_local_run(
    cluster: SlurmCluster, corpora: Path, undisturbed: Path
) -> None:
    own = ["tracking.wandb=true", "cluster.slurm.signal_seconds=600"]
    run, words = corpora / "runs" / "chain", command(corpora, "chain", *LENGTHS, *SLURM, *own)
    nl, multi, mono = submitted(cluster, words)

    those = halted(run, "nl")
    cluster.command("scontrol", "requeue", nl)
    wake(those)
    wait_for(lambda: cluster.begins_now(nl))
    wait_for(lambda: cluster.state(nl) == "COMPLETED")
    assert "resuming after step" in logs(run)

    halted(run, "multi")  # Slurm looks at time limits twice a minute, and sends SIGCONT with their USR1
    assert "chain running multi" in " ".join(manage(cluster, "status", f"root={run.parent}").split())
    again = launch(cluster, words)
    assert again.returncode == 2 and f"is under way as job {multi} (running)" in again.stderr
    soon = cluster.minutes(multi) + 9  # within the notice that the job asks for: its USR1 is due
    cluster.command("scontrol", "update", f"JobId={multi}", f"TimeLimit={soon}")
    wait_for(lambda: "requeued, and resumes from there" in logs(run))
    cluster.command("scontrol", "update", f"JobId={multi}", "TimeLimit=30")
    wait_for(lambda: cluster.begins_now(multi))
    wait_for(lambda: cluster.state(multi) == "COMPLETED")

    those = halted(run, "mono")
    assert "is asked to stop" in manage(cluster, "cancel", str(run))
    wake(those)
    wait_for(lambda: cluster.state(mono) == "CANCELLED")
    wait_for(lambda: not any("train" in process.cmdline() for process in ranks(run)))
    assert " stopped " in manage(cluster, "status", f"root={run}")
    again = submitted(cluster, words)
    assert len(again) == 1, "finished stages are not submitted again"
    wait_for(lambda: cluster.state(again[0]) == "COMPLETED")

    assert weights(run, "mono") == weights(undisturbed, "mono")
    steps = [(row["stage"], row["step"]) for row in read_metrics(run) if "loss" in row]
    assert len(steps) == len(set(steps)) == 3 * STEPS
    tracked = tracked_steps(run / "wandb")
    for stage, found in tracked.items():  # a SIGTERM costs W&B the seconds that it has not written yet
        assert found == sorted(set(found)), f"{stage}: a step is doubled or out of order"
        assert len(found) > 0.5 * STEPS and found[-1] == STEPS
    assert len(tracked["multi"]) == STEPS
    assert " finished " in manage(cluster, "status", f"root={run}")
    assert "stage nl: from random weights" in manage(cluster, "logs", str(run)) + logs(run)


def tracked_steps(folder: Path) -> dict[str, list[int]]:
    """Steps with a loss in W&B's offline files of each stage, in the order in which they would be uploaded."""
    steps: dict[str, list[int]] = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        stage = ""
        for record in records(path.read_bytes()):
            stage = record.run.job_type or stage
            if any(item.key == "loss" or item.nested_key[:1] == ["loss"] for item in record.history.item):
                steps.setdefault(stage, []).append(record.history.step.num)
    return steps


def records(data: bytes) -> Iterator[wandb_internal_pb2.Record]:
    """The records of a W&B file: LevelDB's log format, blocks of 32 KiB, behind a header of 7 bytes."""
    parts, at = b"", 7
    while at + 7 <= len(data):
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if 2**15 - at % 2**15 < 7 or kind == 0:  # the rest of a block is padding
            at += 2**15 - at % 2**15
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last of its parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def ranks(run: Path) -> list[psutil.Process]:
    """Processes that train `run` at this moment."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"run.name={run.name}" in (words := process.info["cmdline"] or []) and "train" in words and "-c" not in words
    ]


@pytest.mark.timeout(900)
def test_a_run_that_fails_is_tried_again_elsewhere_and_a_node_that_goes_down_is_named(
    cluster: SlurmCluster, corpora: Path
) -> None:
    """A node on which it failed twice is left out; after the last try the chain ends."""
    run = corpora / "runs" / "broken"
    words = only(command(corpora, "broken", *SLURM, f"stages.nl.steps={100 * STEPS}"), "nl", "multi")
    cluster.variables |= CANARIES
    nl, multi = submitted(cluster, [*words, "nodes=1", "cluster.restarts=2", "cluster.restart_seconds=0"])
    wait_for(lambda: step_of(run, "nl") >= 3)
    assert not places(corpora), "the scripts are among these files"
    assert all(rank.environ()["HF_TOKEN"] == CANARIES["HF_TOKEN"] for rank in ranks(run))
    failed = []
    for is_requeued in (True, True, False):
        wait_for(lambda: len(ranks(run)) == 1)
        failed.append(ranks(run)[0].environ()["SLURMD_NODENAME"])
        ranks(run)[0].kill()
        if is_requeued:
            wait_for(lambda: cluster.begins_now(nl))
    assert failed == ["n1", "n1", "n2"] and "failed twice, and excluded from here: n1" in logs(run)
    wait_for(lambda: cluster.state(nl) == "FAILED")
    wait_for(lambda: cluster.state(multi) == "CANCELLED")
    shown = " ".join(manage(cluster, "status", f"root={run}").split())
    assert "failed" in shown and "exit code" in shown

    nl, multi = submitted(cluster, words)
    wait_for(lambda: step_of(run, "nl") >= 3 and cluster.state(nl) == "RUNNING" and len(ranks(run)) == 2)
    cluster.stop_node("n2")
    for process in ranks(run):
        if process.environ().get("SLURMD_NODENAME") == "n2":
            process.kill()
    cluster.command("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=crashed")
    wait_for(lambda: cluster.state(nl) == "PENDING")
    shown = " ".join(manage(cluster, "status", f"root={run}").split())
    assert "pending" in shown and nl in shown
    assert "NODE FAILURE" in logs(run)
    cluster.start_node("n2")
    cluster.command("scontrol", "update", "NodeName=n2", "State=RESUME")
    manage(cluster, "cancel", str(run))


def test_a_sweep_is_a_job_array(cluster: SlurmCluster, corpora: Path) -> None:
    prepare = ["cluster.slurm.prepare_cpus=1", f"data.cache={corpora / 'swept'}"]  # not prepared yet
    words = only(command(corpora, "sweep", *SLURM, *prepare, "optimizer.weight_decay=0.0,0.1", "-m"), "nl")
    jobs = submitted(cluster, words)
    assert len(jobs) == 2, "the data is prepared by a job of its own, on which the stage's depends"
    runs = [corpora / "runs" / f"sweep-weight_decay_{value}" for value in ("0.0", "0.1")]
    wait_for(lambda: all((run / "stages/nl/evaluation.json").is_file() for run in runs))
    assert weights(runs[0], "nl") != weights(runs[1], "nl")
    shown = manage(cluster, "status", f"root={corpora / 'runs'}")
    assert f"{jobs[1]}_0" in shown and f"{jobs[1]}_1" in shown
    log = next((corpora / "runs/.sweeps").rglob(f"prepare-{jobs[0]}_0.log")).read_text()
    assert "data: nl: " in log or "data: reusing " in log
    assert "grad norm" not in log, "it trains nothing"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["cluster.slurm.partition=zork"],
            "sbatch refused stage nl: invalid partition specified: zork; Batch job submission failed: "
            "Invalid partition name specified; cluster.slurm.partition may be closed, debug",
        ),
        (["cluster.slurm.partition=closed", "cluster.slurm.account=biology"], "account"),
        (["nodes=3"], "sbatch refused stage nl: "),
        (["cluster.slurm.time=soon"], "time"),
    ],
)
def test_what_slurm_refuses_is_one_line(cluster: SlurmCluster, corpora: Path, more: list[str], said: str) -> None:
    done = launch(cluster, only(command(corpora, "refused", *SLURM, "stages.nl.global_batch_size=48", *more), "nl"))
    assert done.returncode == 2
    assert said.lower() in done.stderr.lower() and done.stderr.count("\n") == 1


def test_without_sbatch_it_says_so(cluster: SlurmCluster, corpora: Path, tmp_path: Path) -> None:
    python = shutil.which("python3", path=search_path())
    assert python is not None
    variables = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        only(command(corpora, "nowhere", *SLURM), "nl"), cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no sbatch on this machine; submit from the cluster's login node" in done.stderr
