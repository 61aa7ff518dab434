"""W&B never hurts: its server refuses, hangs or is lost, a try is killed, and the curve is whole in the end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from conf.run_folder import WANDB_UNSENT, save_settings, wandb_id, write_json
from conf.schema import Settings
from launch.control import sync
from tests.wandb_server import WandbServer, wandb_server
from train.wandb_run import artifact_name, flat, logged_steps, mark_unsent, open_wandb, replay

ROOT = Path(__file__).parents[2]
ROWS = [{"stage": "nl", "step": step, "loss": 1 / step, "tokens": step, "mfu": None} for step in (10, 20, 30)]
KILLED = """
import os, signal, sys, time
from pathlib import Path
from conf.compose import compose_settings
from train.wandb_run import logged_steps, wandb_run
run = wandb_run(Path(sys.argv[1]), "nl", compose_settings([]), {})
for step in (10, 20):
    run.log({"loss": 1 / step}, step=step)
files = Path(sys.argv[1]).glob
while not any(logged_steps(path) for path in files("wandb/offline-run-*/*.wandb")):
    time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a run, without a server."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.setenv(name, "put back in the end")
        monkeypatch.delenv(name)
    write_json(tmp_path / "environment.json", {})
    yield tmp_path
    wandb.teardown()


class Failing(BaseHTTPRequestHandler):
    """Answers that the server has failed."""

    def do_POST(self) -> None:
        self.send_error(500)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(params=["refuses", "hangs", "fails"])
def server(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A W&B server that refuses connections, or takes them and never answers, or answers with an error."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with socket.socket() as listener, ThreadingHTTPServer(("127.0.0.1", 0), Failing) as failing:
        listener.bind(("127.0.0.1", 0))
        if request.param == "hangs":
            listener.listen(64)
        port = failing.server_port if request.param == "fails" else listener.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        threading.Thread(target=failing.serve_forever, daemon=True).start()
        yield request.param
        failing.shutdown()


@contextmanager
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that answers, named by the environment; on a busy machine late."""
    init = wandb.init

    def patient(*, settings: wandb.Settings, **options: Any) -> wandb.Run:
        settings.init_timeout = 300.0
        return init(settings=settings, **options)

    monkeypatch.setattr(wandb, "init", patient)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def files(folder: Path) -> list[Path]:
    """W&B's offline files, oldest first, once its process has written them to their ends."""
    wandb.teardown()
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def test_a_server_that_does_not_answer_costs_one_warning_and_the_records_wait_here(
    server: str, folder: Path, settings: Settings
) -> None:
    settings = replace(settings, tracking=replace(settings.tracking, wandb_seconds=1.0))
    said: list[str] = []
    for stage in ("nl", "multi"):
        run = open_wandb(folder, stage, settings, {}, ROWS[:1], said.append)
        assert run.offline
        run.log({"loss": 0.5}, step=11)
        run.finish()
    assert len(said) == 1, "the second stage knows already"
    assert said[0].startswith("warning: W&B's server cannot be used (") and "launch sync" in said[0]
    assert [logged_steps(path) for path in files(folder)] == [[10, 11], [10, 11]]


def test_the_files_hold_no_secrets(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the value of a secret variable nor what has a token's form, wherever the settings got it from."""
    monkeypatch.setenv("CANARY_TOKEN", "canary-of-a-variable")
    settings = replace(settings, run=replace(settings.run, group="canary-of-a-variable"))
    lineage = {"parent": "https://me:canaryword@host/weights", "lineage": ["hf_canarycanarycanarycanary"]}
    run = open_wandb(folder, "nl", settings, lineage, ROWS[:1], print)
    run.finish()
    wandb.teardown()
    written = [path for path in folder.glob("wandb/**/*") if path.is_file()]
    config = next(path for path in written if path.suffix == ".wandb").read_bytes()
    assert b"[secret]" in config and not [path for path in written if path.name == "diff.patch"]
    for canary in (b"canaryword", b"hf_canary"):
        assert not [path for path in written if canary in path.read_bytes()]


def test_a_killed_try_is_followed_by_what_its_file_lacks(folder: Path, settings: Settings) -> None:
    variables = {**os.environ, "WANDB_X_SERVICE_WAIT": "300"}
    words = [sys.executable, "-c", KILLED, str(folder)]
    killed = subprocess.run(words, cwd=ROOT, env=variables, timeout=500, check=False)
    assert killed.returncode == -signal.SIGKILL
    (first,) = files(folder)
    assert logged_steps(first) == [10], "W&B writes a step when the next one comes"
    time.sleep(1.1)  # W&B names a try's folder by the second
    run = open_wandb(folder, "nl", settings, {}, ROWS, print)
    run.finish()
    assert [logged_steps(path) for path in files(folder)] == [[10], [20, 30]]


def test_an_online_try_that_ended_early_is_followed_by_what_its_server_lacks(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's real client, over a socket; the server is ours (tests/wandb_server.py)."""
    settings = replace(settings, tracking=replace(settings.tracking, wandb_seconds=300.0))
    with online(monkeypatch) as server:
        open_wandb(folder, "nl", settings, {}, ROWS[:1], print).finish()
        assert server.steps(wandb_id(folder, "nl")) == [10]
        time.sleep(1.1)  # W&B names a try's folder by the second
        open_wandb(folder, "nl", settings, {}, ROWS, print).finish()
        assert server.steps(wandb_id(folder, "nl")) == [10, 20, 30]
    own = [thread.name for thread in threading.enumerate() if thread.name.startswith("Otel")]
    assert not own, "W&B's reports on itself wait for a server that hangs as the process ends"


def test_a_server_that_is_lost_in_mid_run_has_the_whole_curve_after_sync(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The upload comes to its end in a given time; `python -m launch sync` brings the rest."""
    save_settings(settings, folder)
    monkeypatch.chdir(folder)  # `wandb sync` makes a folder where it is called
    settings = replace(settings, tracking=replace(settings.tracking, wandb_seconds=1.0))
    with online(monkeypatch) as server:
        run = open_wandb(folder, "nl", settings, {}, ROWS[:1], print)
        run.log({"loss": 0.2}, step=15)
        server.fault = "fails"
        run.log({"loss": 0.1}, step=20)
        with pytest.raises(TimeoutError):
            run.finish()
        mark_unsent(run)
        wandb.teardown()
        assert 20 not in server.steps(run.id)
        server.fault = None
        assert sync([str(folder)]) == 0
        assert "1 uploaded" in capsys.readouterr().out
        assert server.steps(run.id) == [10, 15, 20]


def test_a_run_that_its_server_has_in_part_gets_the_rest_and_earlier_files_need_no_upload(folder: Path) -> None:
    logged: list[tuple[int, dict[str, Any]]] = []
    own, earlier = folder / "wandb/run-2-abc", folder / "wandb/offline-run-1-abc"
    for path in (own, earlier, folder / "wandb/offline-run-1-other"):
        path.mkdir(parents=True)
        (path / f"run-{path.name[-3:]}.wandb").write_bytes(b"")
        (path / WANDB_UNSENT).touch()
    run = SimpleNamespace(
        id="abc",
        offline=False,
        starting_step=11,  # the server has step 10
        settings=SimpleNamespace(sync_dir=str(own)),
        log=lambda values, step: logged.append((step, values)),
    )
    replay(run, ROWS, folder / "wandb")
    assert logged == [(20, {"loss": 1 / 20, "tokens": 20}), (30, {"loss": 1 / 30, "tokens": 30})]
    assert (earlier / "run-abc.wandb.synced").is_file() and not (earlier / WANDB_UNSENT).exists()
    assert (own / WANDB_UNSENT).exists() and not list(own.glob("*.synced"))
    assert not list((folder / "wandb/offline-run-1-other").glob("*.synced"))


def test_a_run_whose_upload_did_not_end_is_marked(folder: Path) -> None:
    run = SimpleNamespace(offline=False, settings=SimpleNamespace(sync_dir=str(folder)))
    mark_unsent(run)
    assert (folder / WANDB_UNSENT).is_file()
    assert os.environ["WANDB_MODE"] == "offline"


def test_training_goes_on_where_wandb_fails_altogether(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", fail)
    said: list[str] = []
    assert open_wandb(folder, "nl", settings, {}, ROWS, said.append) is None
    assert said == ["warning: W&B failed and is left out (no space left); metrics.jsonl has every record"]


def test_the_environment_switches_it_off(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert open_wandb(folder, "nl", settings, {}, ROWS, print) is None
    assert not (folder / "wandb").exists()


def test_a_files_steps_are_read_over_its_blocks_and_up_to_where_it_was_cut(folder: Path, settings: Settings) -> None:
    run = open_wandb(folder, "nl", settings, {}, [], print)
    for step in range(1, 400):
        run.log({f"value/{rank}": float(step * rank) for rank in range(20)}, step=step)
    run.finish()
    (path,) = files(folder)
    assert path.parent.name.endswith(wandb_id(folder, "nl"))
    assert path.stat().st_size > 5 * 32768
    assert logged_steps(path) == list(range(1, 400))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    some = logged_steps(path)
    assert some == list(range(1, len(some) + 1)) and 100 < len(some) < 300


def test_lists_are_a_curve_per_rank_and_artifacts_have_allowed_names() -> None:
    assert flat({"loss": 1.0, "rank": [2, 3]}) == {"loss": 1.0, "rank/0": 2, "rank/1": 3}
    assert artifact_name("my run/nl") == "my-run-nl"
