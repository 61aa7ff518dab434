"""The W&B report, saved by W&B's own client to a server that answers as W&B's does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conf.run_folder import wandb_id
from tests.train.compare_runs import write_run
from train.compare.__main__ import main

VIEWER = {"id": "1", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}


class Server(ThreadingHTTPServer):
    """Answers the queries that saving a report takes; `saved` holds the variables of each saved one."""

    refuse = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.saved: list[dict[str, Any]] = []


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer: dict[str, Any] = {"data": {"viewer": VIEWER, "serverInfo": {"features": []}}}
        if self.path == "/graphql":
            asked = json.loads(body)
            if "upsertView" in asked["query"]:
                view = asked["variables"]
                self.server.saved.append(view)
                project = {"id": "UHI=", "name": view["projectName"], "entityName": view["entityName"]}
                kept = {key: view[key] for key in ("type", "name", "displayName", "description", "spec")}
                view = {"id": "Vmlldzox", "project": project, "updatedAt": "2026-01-01T00:00:00", **kept}
                answer = {"data": {"upsertView": {"view": view, "inserted": True}}}
            elif "GetProjects" in asked["query"]:
                project = {"__typename": "Project", "id": "UHI=", "name": "codegen", "entityName": "me"}
                project |= {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
                pages = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
                answer = {"data": {"models": {"pageInfo": pages, "edges": [{"node": project}]}}}
            elif "internalId" in asked["query"]:
                answer = {"data": {"project": {"internalId": "UHJvamVjdA=="}}}
            if self.server.refuse and "upsertView" in asked["query"]:
                answer = {"errors": [{"message": "permission denied"}], "data": None}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *words: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        yield running
        running.shutdown()


def test_the_report_has_the_table_and_a_panel_for_each_metric_of_these_runs(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path, f"a-seed_{n}", f"run.seed={n}", stages="nl,mono", records=10) for n in (1, 2)]
    assert main([*map(str, runs), "report=wandb"]) == 0
    (saved,) = server.saved
    assert saved["projectName"] == "codegen" and saved["displayName"] == "Comparison of a-seed_1, a-seed_2"
    blocks = json.loads(saved["spec"])["blocks"]
    text = json.dumps(blocks)
    assert "a, mean of 2 seeds" in text and " \\u00b1 " in text
    for run in runs:
        for stage in ("nl", "mono"):
            assert wandb_id(run, stage) in text
    grids = [block for block in blocks if block["type"] == "panel-grid"]
    plotted = [
        panel["config"]["metrics"] for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]
    ]
    assert ["loss"] in plotted and ["bits_per_byte/mono"] in plotted and ["memory_bytes"] in plotted
    assert f"report: http://127.0.0.1:{server.server_port}/me/codegen/reports/" in capsys.readouterr().out


def test_a_report_that_is_not_saved_is_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, "one", stages="nl", records=10)
    server.refuse = True
    assert main([str(run), "report=wandb"]) == 2
    assert "error: W&B's server did not save the report: " in capsys.readouterr().err
    other = write_run(tmp_path, "other", "tracking.project=elsewhere", stages="nl", records=10)
    assert main([str(run), str(other), "report=wandb"]) == 2
    assert "several W&B projects, codegen, elsewhere" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([str(run), "report=wandb"]) == 2
    assert "report=wandb needs W&B's server" in capsys.readouterr().err
