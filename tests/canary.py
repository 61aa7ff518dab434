"""Secrets that a launch has in its environment and that nobody may find: in no file of a run, on no command line."""

import os
from pathlib import Path

import psutil

CANARIES = {
    "WANDB_API_KEY": "c0ffee" + "0123456789abcdef" * 2 + "ca",
    "HF_TOKEN": "hf_canaryCanaryCanary0123456789",
    "LAB_SERVICE_PASSWORD": "canary-of-a-service-0123456789",
}


def places(folder: Path) -> list[str]:
    """Where a canary is: files below `folder` that others can read, and command lines of any process."""
    values = [value.encode() for value in CANARIES.values()]
    found = []
    for path in (Path(above) / name for above, _, names in os.walk(folder) for name in names):  # rglob minds lost ones
        try:
            shared = path.is_file() and path.stat().st_mode & 0o077
            if shared and any(value in path.read_bytes() for value in values):
                found.append(str(path))
        except FileNotFoundError:  # a run under way moves its files
            continue
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or []).encode()
        if any(value in words for value in values):
            found.append(f"process {process.pid}: {process.info['cmdline']}")
    return found
