"""A server that speaks as much of W&B's protocol as its client needs, and keeps the curves that it was sent.

W&B's own server is a container image, which tests cannot bring along. The client is the real one: GraphQL at `/graphql`
opens a run, tells what the server has of it, and JSON lines at `/files/.../file_stream` carry the records.
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"


class WandbServer:
    """runs: id -> the lines of its history, in order. fault: `fails`, with an error to every request, or `hangs`."""

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.fault: str | None = None
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_of": self}))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.http.server_port}"

    def steps(self, run: str) -> list[int]:
        """The steps of a run's records, in the order in which it has them."""
        return [line["_step"] for line in self.runs[run]]

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """To a request, as W&B's server answers."""
        if path.endswith("/file_stream"):
            self._stream(path.split("/")[-2], body.get("files", {}).get(HISTORY))
            return {"limits": {}}
        query, variables = body.get("query", ""), body.get("variables", {})
        if "upsertBucket" in query:
            return {"data": {"upsertBucket": {"bucket": self._bucket(variables["name"]), "inserted": True}}}
        if "historyTail" in query:
            return {"data": {"model": self._model(variables["name"])}}
        if "viewer" in query:
            return {"data": {"viewer": {"id": "1", "entity": "lab", "username": "lab", "flags": "{}", "teams": None}}}
        if "serverInfo" in query:
            return {"data": {"serverInfo": {"features": []}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}}
        if "createArtifact(" in query:
            sequence = {"id": "1", "latestArtifact": {"id": "1", "versionIndex": 0}}
            return {
                "data": {
                    "createArtifact": {"artifact": {"id": "1", "state": "COMMITTED", "artifactSequence": sequence}}
                }
            }
        return {"data": dict.fromkeys(re.findall(r"^\s*(\w+)\(", query, re.M)[:1])}

    def _stream(self, run: str, history: dict[str, Any] | None) -> None:
        if history is not None:
            lines = self.runs.setdefault(run, [])
            lines[history["offset"] :] = [json.loads(line) for line in history["content"]]

    def _bucket(self, run: str) -> dict[str, Any]:
        self.runs.setdefault(run, [])
        project = {"id": "1", "name": "codegen", "entity": {"id": "1", "name": "lab"}}
        words = {"id": run, "name": run, "displayName": run, "description": "", "config": "{}", "sweepName": None}
        return {**words, "project": project, "historyLineCount": len(self.runs[run])}

    def _model(self, run: str) -> dict[str, Any] | None:
        if not self.runs.get(run):
            return None
        counts = {"logLineCount": 0, "eventsLineCount": 0, "wandbConfig": '{"t": 1}', "eventsTail": "[]", "tags": []}
        tail = json.dumps([json.dumps(self.runs[run][-1])])
        summary = json.dumps(self.runs[run][-1])
        return {
            "id": "1",
            "name": "codegen",
            "entity": {"id": "1", "name": "lab"},
            "bucket": {**self._bucket(run), **counts, "historyTail": tail, "summaryMetrics": summary},
        }


class _Handler(BaseHTTPRequestHandler):
    server_of: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server_of.fault == "fails":
            self.send_error(500)
            return
        if self.server_of.fault == "hangs":
            while self.server_of.fault == "hangs":
                time.sleep(0.1)
            self.close_connection = True  # unanswered
            return
        read = json.loads(body) if body.startswith(b"{") else {}  # else a file that goes with the run
        answer = json.dumps(self.server_of.answer(self.path, read)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has given up
            self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that listens while the block runs."""
    server = WandbServer()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
