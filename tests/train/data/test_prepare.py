import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

import train.data.prepare as module
from conf.errors import ConfigError, DataError
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.data.conftest import write_jsonl
from train.data.prepare import find_prepared, prepare


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_prepared_data_is_complete_and_counted(settings):
    logged = []
    assert find_prepared(settings) is None
    prepared = prepare(settings, logged.append)
    assert list(prepared.corpora) == ["nl", "code"]
    tokenizer = prepared.tokenizer()
    assert tokenizer.vocab_size == 400
    for files in prepared.corpora.values():
        for split in ("train", "validation"):
            tokens = numpy.fromfile(getattr(files, split), dtype=files.dtype)
            assert len(tokens) == getattr(files, f"{split}_tokens")
            assert len(tokenizer.decode(tokens.tolist()).encode()) == getattr(files, f"{split}_bytes")
    summary = json.loads((prepared.directory / "summary.json").read_text())
    assert summary["corpora"]["nl"]["validation_bytes"] == prepared.corpora["nl"].validation_bytes
    assert [line.split(":")[1].strip().split(" ")[0] for line in logged] == ["tokenizer", "nl", "code"]
    assert sorted(path.name for path in prepared.directory.iterdir()) == ["code", "nl", "summary.json", "tokenizer"]
    assert find_prepared(settings) == prepared


def test_a_second_call_reuses_and_says_so(settings):
    prepared = prepare(settings, lambda line: None)
    logged = []
    assert prepare(settings, logged.append) == prepared
    assert len(logged) == 1 and logged[0].startswith(f"data: reusing {prepared.directory} (tokens: nl ")


def test_two_preparations_give_identical_files(settings):
    first = contents(prepare(settings, lambda line: None).directory)
    shutil.rmtree(settings.data.cache)
    assert contents(prepare(settings, lambda line: None).directory) == first


def test_no_text_is_in_both_parts_of_any_corpora(settings):
    prepared = prepare(settings, lambda line: None)
    parts = {"train": set(), "validation": set()}
    for key in prepared.corpora:
        for line in (prepared.directory / key / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            parts[row["split"]].add(row["sha256"])
    assert parts["train"] and parts["validation"]
    assert not parts["train"] & parts["validation"]


def test_a_wide_vocabulary_gets_wide_tokens(settings, monkeypatch):
    class Wide:
        def __init__(self, tokenizer):
            self._tokenizer = tokenizer

        vocab_size = 2**16 + 1

        def __getattr__(self, name):
            return getattr(self._tokenizer, name)

    train = module.train_tokenizer
    monkeypatch.setattr(module, "train_tokenizer", lambda *given: Wide(train(*given)))
    files = prepare(settings, lambda line: None).corpora["nl"]
    assert files.dtype == "<u4"
    assert files.train.stat().st_size == 4 * files.train_tokens


SLOW = """
import pickle, sys, time
import train.data.prepare as module
def stop(*given):
    assert "torch" not in sys.modules
    print("in the middle", flush=True)
    time.sleep(60)
module.train_tokenizer = stop
module.prepare(pickle.load(open(sys.argv[1], "rb")))
"""


def test_a_killed_preparation_leaves_nothing_that_looks_complete(settings, tmp_path):
    (tmp_path / "settings.pickle").write_bytes(pickle.dumps(settings))
    killed = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "settings.pickle")], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None and killed.stdout.readline() == "in the middle\n"
    running = [path.name for path in Path(settings.data.cache).iterdir()]
    module._remove_abandoned(Path(settings.data.cache) / running[0].split(".")[0])
    assert [path.name for path in Path(settings.data.cache).iterdir()] == running, "it is still at work"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert find_prepared(settings) is None
    prepared = prepare(settings, lambda line: None)
    assert list(Path(settings.data.cache).iterdir()) == [prepared.directory], "its remains are removed"


def test_a_failed_preparation_leaves_nothing(settings):
    settings.data.tokenizer.kind = "gpt3"
    with pytest.raises(ConfigError, match="there is codegen, gpt2, sentencepiece"):
        prepare(settings, lambda line: None)
    assert list(Path(settings.data.cache).iterdir()) == []


def test_the_remains_of_another_machine_wait_a_day(settings):
    prepared = prepare(settings, lambda line: None)
    young = prepared.directory.with_name(f"{prepared.directory.name}.partial.elsewhere.1")
    old = prepared.directory.with_name(f"{prepared.directory.name}.partial.else.where.2")
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    module._remove_abandoned(prepared.directory)
    assert young.exists() and not old.exists()
    assert socket.gethostname() not in young.name


def test_of_two_concurrent_preparations_the_slower_is_discarded(settings, monkeypatch):
    write = module._write

    def overtaken(settings, partial, log):
        write(settings, partial, log)
        shutil.copytree(partial, partial.with_name(partial.name.split(".")[0]))

    monkeypatch.setattr(module, "_write", overtaken)
    logged = []
    prepared = prepare(settings, logged.append)
    assert "another process has prepared" in logged[-1]
    assert list(Path(settings.data.cache).iterdir()) == [prepared.directory]


def test_a_corpus_smaller_than_a_batch_is_one_clear_line(settings):
    tokens = prepare(settings, lambda line: None).corpora["nl"].train_tokens
    settings.stages["nl"].global_batch_size = tokens // 16 + 1
    words = rf"corpus nl has {tokens:,} tokens .* stage nl needs {settings.stages['nl'].global_batch_size * 16 + 1:,}"
    for function in (find_prepared, prepare):
        with pytest.raises(DataError, match=words):
            function(settings)


def test_a_cache_that_cannot_be_written_is_one_clear_line(settings, tmp_path, monkeypatch):
    settings.data.cache = str(tmp_path / "nl.jsonl" / "cache")
    with pytest.raises(DataError, match=r"cannot be written to .*Not a directory.*data\.cache="):
        prepare(settings)
    settings.data.cache = str(tmp_path / "cache")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_tokens", full)
    with pytest.raises(DataError, match=r"No space left on device; free some space"):
        prepare(settings, lambda line: None)


def test_damaged_data_is_named(settings):
    prepared = prepare(settings, lambda line: None)
    (prepared.directory / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read .* remove it and prepare again"):
        find_prepared(settings)


def test_an_empty_file_is_an_empty_corpus(settings, tmp_path):
    write_jsonl(tmp_path / "nl.jsonl", [])
    with pytest.raises(DataError, match=r"corpus nl .* is empty"):
        prepare(settings, lambda line: None)


def test_a_finished_tokenizer_is_taken_as_it_is(settings, tmp_path):
    SentencePieceTokenizer.train(["quite other words than the corpora's\n" * 50], 400).save(tmp_path / "given")
    settings.data.tokenizer.path = str(tmp_path / "given")
    prepared = prepare(settings, lambda line: None)
    given = (tmp_path / "given/sentencepiece.model").read_bytes()
    assert (prepared.directory / "tokenizer/sentencepiece.model").read_bytes() == given
    settings.model.vocab_size = 300
    with pytest.raises(ConfigError, match=r"model\.vocab_size=300 has no room for the \d+ ids"):
        prepare(settings, lambda line: None)
