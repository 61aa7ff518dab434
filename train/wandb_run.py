"""A stage's W&B run: online where a server is named and answers, else offline; made whole from metrics.jsonl.

Whatever happens to W&B or its server, training goes on, and a warning says what is missing there.
"""

import contextlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conf.run_folder import ENVIRONMENT, WANDB_UNSENT, read_json, wandb_id
from conf.schema import Settings, plain
from conf.secrets import redact

LOG_HEADER, BLOCK, CHUNK_HEADER = 7, 32768, 7  # bytes, of W&B's file: leveldb's log format behind a header
PADDING, FULL, FIRST, LAST = 0, 1, 2, 4  # kinds of a chunk


def open_wandb(
    folder: Path,
    stage: str,
    settings: Settings,
    lineage: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    log: Callable[[str], None],
) -> Any:
    """The stage's W&B run, offline where its server does not answer in time; None where W&B is switched off or fails.

    rows: the stage's records so far; those that the run lacks are logged to it first. log: tells the warning.
    """
    if is_disabled():
        return None
    # W&B's reports on itself, to the same server: where that hangs, each process would wait up to 20 s as it ends.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Its process has 30 s to start, else the stage is not tracked at all: busy nodes need longer.
    os.environ.setdefault("WANDB_X_SERVICE_WAIT", "300")
    import wandb

    online = is_online()
    try:
        run = wandb_run(folder, stage, settings, lineage)
    except Exception as error:
        with contextlib.suppress(Exception):
            wandb.teardown()  # W&B keeps a run that could not be opened, and would refuse its id
        if not online:
            log(f"warning: W&B failed and is left out ({_first_line(error)}); metrics.jsonl has every record")
            return None
        os.environ["WANDB_MODE"] = "offline"  # later stages of this process do not wait again
        log(
            f"warning: W&B's server cannot be used ({_first_line(error)}); offline from here, "
            "`python -m launch sync` uploads it later"
        )
        return open_wandb(folder, stage, settings, lineage, rows, log)
    replay(run, rows, folder / "wandb")
    return run


def wandb_run(folder: Path, stage: str, settings: Settings, lineage: dict[str, Any]) -> Any:
    """One W&B run a stage: group = run.group, job type = stage. The same folder and stage continue the same run."""
    import wandb

    online, waits = is_online(), dict[str, Any]()
    if online:
        seconds = settings.tracking.wandb_seconds
        waits = {"init_timeout": seconds, "finish_timeout": seconds, "finish_timeout_raises": True}
    return wandb.init(
        project=settings.tracking.project,
        entity=settings.tracking.entity,
        dir=str(folder),
        id=wandb_id(folder.resolve(), stage),
        name=f"{settings.run.name}/{stage}",
        group=settings.run.group,
        job_type=stage,
        tags=[settings.model.name, settings.layout.name, settings.stages[stage].corpus],
        config=_without_secrets(
            {**plain(settings), "lineage": lineage, "environment": read_json(folder / ENVIRONMENT)}
        ),
        resume="allow",
        mode="online" if online else "offline",
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,  # its copy of the uncommitted changes may hold secrets; environment.json's does not
            # Slurm's SIGTERM kills W&B's process too: what is not in the file by then is lost to the tracker.
            x_transaction_log_flush_interval=1.0,
            **waits,
        ),
    )


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(redact(json.dumps(values))))


def is_online() -> bool:
    """Whether a server is named (WANDB_API_KEY, WANDB_BASE_URL) and WANDB_MODE does not forbid it."""
    named = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL")
    return bool(named) and os.environ.get("WANDB_MODE") not in ("offline", "dryrun")


def is_disabled() -> bool:
    """Whether the environment switches W&B off, whatever the settings say."""
    return os.environ.get("WANDB_MODE") == "disabled"


def replay(run: Any, rows: Sequence[dict[str, Any]], files: Path) -> None:
    """Log to `run` the records of steps after the last one it has: a kill loses those still on their way.

    An online run knows its server's last step. Offline, the earlier tries' files in `files` are read; once an online
    run has been given every record, these need no upload.
    """
    earlier = [path for path in sorted(files.glob(f"*run-*-{run.id}")) if path != Path(run.settings.sync_dir)]
    last = run.starting_step - 1
    if run.offline:
        last = max(
            (step for path in earlier for file in path.glob("*.wandb") for step in logged_steps(file)), default=0
        )
    for row in sorted(rows, key=lambda row: int(row["step"])):  # scores of benchmarks come some steps late
        if row["step"] > last:
            values = {key: value for key, value in row.items() if key not in ("stage", "step") and value is not None}
            run.log(flat(values), step=row["step"])
    if not run.offline:
        for path in earlier:
            (path / WANDB_UNSENT).unlink(missing_ok=True)
            for file in path.glob("*.wandb"):
                file.with_name(f"{file.name}.synced").touch()  # W&B's own mark


def mark_unsent(run: Any) -> None:
    """Mark the run's files for `python -m launch sync`, and let later stages of this process stay offline."""
    if not run.offline:
        (Path(run.settings.sync_dir) / WANDB_UNSENT).touch()
        os.environ["WANDB_MODE"] = "offline"


def logged_steps(path: Path) -> list[int]:
    """The steps whose records are complete in W&B's file, in order."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in _chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            found.append(record.history.step.num)
    return found


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with each list as one key per rank: W&B plots numbers, not lists."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        found |= {f"{key}/{rank}": each for rank, each in enumerate(value)} if isinstance(value, list) else {key: value}
    return found


def artifact_name(entry: str) -> str:
    """W&B's name for the stage `RUN/STAGE` of a lineage: letters, digits, and a few signs are allowed."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", entry)


def _chunks(data: bytes) -> Iterator[bytes]:
    """The records of a leveldb log, as bytes; a last one that a kill cut off is left out."""
    position, parts = LOG_HEADER, b""
    while position + CHUNK_HEADER <= len(data):
        length, kind = struct.unpack_from("<HB", data, position + 4)
        if BLOCK - position % BLOCK < CHUNK_HEADER or kind == PADDING:
            position += BLOCK - position % BLOCK
            continue
        position += CHUNK_HEADER
        chunk = data[position : position + length]
        if len(chunk) < length:
            return
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            yield parts
        position += length


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
