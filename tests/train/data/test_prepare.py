import json
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

import train.data.prepare as module
from conf.choices import Packing
from conf.errors import ConfigError, DataError
from conf.run_folder import write_json
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.data.conftest import text, write_jsonl
from train.data.prepare import find_prepared, prepare
from train.data.token_spans import open_tokens, shards_of


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
            tokens = open_tokens(getattr(files, split), files.dtype).read(0, 10**9)
            assert len(tokens) == getattr(files, f"{split}_tokens")
            assert len(tokenizer.decode(tokens.tolist()).encode()) == getattr(files, f"{split}_bytes")
    summary = json.loads((prepared.directory / "summary.json").read_text())
    assert summary["corpora"]["nl"]["validation_bytes"] == prepared.corpora["nl"].validation_bytes
    assert [line.split(":")[1].strip().split(" ")[0] for line in logged] == ["tokenizer", "2", "nl", "code"]
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

    load = module.load_tokenizer
    monkeypatch.setattr(module, "load_tokenizer", lambda folder: Wide(load(folder)))
    files = prepare(settings, lambda line: None).corpora["nl"]
    assert files.dtype == "<u4"
    assert open_tokens(files.train, files.dtype).read(0, 9).dtype == numpy.dtype("<u4")
    assert len(open_tokens(files.train, files.dtype)) == files.train_tokens


KILLED = """
import os, pickle, signal, sys
import train.data.pool as pool
import train.data.prepare as module
write = pool.write_shard
def once(task, done=[]):
    assert "torch" not in sys.modules
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(write(task))
    return done[0]
pool.write_shard = once
module.prepare(pickle.load(open(sys.argv[1], "rb")))
"""


def finished_shards(settings):
    shards = Path(settings.data.cache) / "shards"
    return {path.parent.name: path.stat().st_mtime_ns for path in shards.glob("*/shard.json")}


def test_a_killed_preparation_goes_on_with_what_is_missing(settings, tmp_path):
    (tmp_path / "settings.pickle").write_bytes(pickle.dumps(settings))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "settings.pickle")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert find_prepared(settings) is None
    before = finished_shards(settings)
    assert len(before) == 1
    (Path(settings.data.cache) / "shards" / f"x.partial.{socket.gethostname()}.999999999").mkdir()
    prepared = prepare(settings, lambda line: None)
    after = finished_shards(settings)
    assert len(after) == 2 and before.items() <= after.items(), "what was finished is not made again"
    assert not list(Path(settings.data.cache).rglob("*.partial.*")), "the remains are removed"
    whole = contents(prepared.directory)
    shutil.rmtree(settings.data.cache)
    assert contents(prepare(settings, lambda line: None).directory) == whole, "as if it had never been killed"


def test_other_stages_validation_sets_and_bounds_make_no_shard_again(settings):
    prepare(settings, lambda line: None)
    before = finished_shards(settings)
    settings.data.validation_bytes = 2000
    first = prepare(settings, lambda line: None).corpora["nl"]
    assert 0 < first.validation_bytes <= 2000
    settings.data.corpora["nl"].max_bytes = 20_000
    assert prepare(settings, lambda line: None).corpora["nl"].train_bytes < 20_000
    settings.data.dedup_across_corpora = True
    del settings.stages["code"]
    assert list(prepare(settings, lambda line: None).corpora) == ["nl"], "what no stage reads is not prepared"
    assert finished_shards(settings) == before


def test_a_changed_file_makes_its_own_shard_again(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 30_000)
    SentencePieceTokenizer.train([text(seed) for seed in range(99)], 400).save(tmp_path / "given")
    settings.data.tokenizer.path = str(tmp_path / "given")
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", [text(50 * n + seed) for seed in range(60)]) for n in range(4)]
    settings.data.corpora["nl"].paths = [str(path) for path in paths]
    prepare(settings, lambda line: None)
    before = finished_shards(settings)
    write_jsonl(paths[2], [text(1000 + seed) for seed in range(60)])
    prepare(settings, lambda line: None)
    after = finished_shards(settings)
    assert len(after) == len(before) + 1 and before.items() <= after.items()


def test_a_stage_under_way_keeps_the_data_that_it_began_with(settings, tmp_path):
    """A file that changes neither stops a run that is tried again nor moves its place in the data."""
    settings.run = replace(settings.run, root=str(tmp_path), name="mine")
    began, logged = prepare(settings, lambda line: None), []
    stage = tmp_path / "mine/stages/nl"
    (stage / "checkpoints/step_00000010").mkdir(parents=True)
    write_json(tmp_path / "mine/data.json", {"folder": began.directory.name, "digests": {}})
    write_jsonl(tmp_path / "nl.jsonl", [text(seed) for seed in range(301)])
    assert find_prepared(settings) == prepare(settings, logged.append) == began
    warning = "warning: files, commits or packages have changed; stage nl resumes with the data that it began with"
    assert logged[0].startswith(warning) and logged[1].startswith("data: reusing") and len(logged) == 2
    (tmp_path / "nl.jsonl").unlink()
    assert prepare(settings, logged.append) == began and "nl.jsonl" in logged[2]
    write_jsonl(tmp_path / "nl.jsonl", [text(seed) for seed in range(302)])

    others = replace(settings, run=replace(settings.run, extend=True))
    assert find_prepared(others) is None, "the new documents are asked for"
    others = replace(settings, data=replace(settings.data, validation_bytes=100))
    assert find_prepared(others) is None, "of other settings"
    (stage / "weights").mkdir(), (stage / "evaluation.json").touch()
    assert find_prepared(settings) is None, "the next stage begins with what there is"
    (stage / "evaluation.json").unlink()
    shutil.rmtree(Path(settings.data.cache) / "shards")
    assert find_prepared(settings) is None and prepare(settings, lambda line: None) != began


def test_processes_make_what_one_makes(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 20_000)
    alone = contents(prepare(settings, lambda line: None).directory)
    assert len(finished_shards(settings)) > 4
    shutil.rmtree(settings.data.cache)
    monkeypatch.setattr("train.data.pool.SMALL_BYTES", 0)
    settings.data.workers = 2
    together = contents(prepare(settings, lambda line: None).directory)
    alone.pop("summary.json"), together.pop("summary.json")  # it says how many processes
    assert together == alone


def test_a_failed_preparation_leaves_nothing(settings):
    settings.data.tokenizer.kind = "gpt3"
    with pytest.raises(ConfigError, match="there is codegen, codegen2, gpt2, sentencepiece"):
        prepare(settings, lambda line: None)
    assert find_prepared(settings) is None


def test_of_two_concurrent_preparations_the_slower_is_discarded(settings, monkeypatch):
    assemble = module.assemble

    def overtaken(*given):
        counts = assemble(*given)
        monkeypatch.undo()
        prepare(settings, lambda line: None)
        return counts

    monkeypatch.setattr(module, "assemble", overtaken)
    prepared = prepare(settings, lambda line: None)
    assert find_prepared(settings) == prepared
    assert not list(Path(settings.data.cache).rglob("*.partial.*"))


@pytest.mark.parametrize("packing", list(Packing))
def test_a_corpus_smaller_than_a_batch_is_one_clear_line(settings, packing):
    """Counted in samples: documents that are not cut fill more of them than their tokens would."""
    settings.data.packing = packing
    prepared = prepare(settings, lambda line: None)
    count, tokens = len(prepared.training(settings)["nl"]), prepared.corpora["nl"].train_tokens
    settings.stages["nl"].global_batch_size = count
    assert find_prepared(settings) == prepare(settings, lambda line: None)
    settings.stages["nl"].global_batch_size = count + 1
    words = rf"corpus nl has {tokens:,} tokens .* {count:,} samples of 16, .* of stage nl needs {count + 1:,}"
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

    monkeypatch.setattr(module, "assemble", full)
    with pytest.raises(DataError, match=r"No space left on device; free some space"):
        prepare(settings, lambda line: None)


def test_damaged_data_is_named(settings):
    prepared = prepare(settings, lambda line: None)
    (prepared.directory / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read .* remove it and prepare again"):
        find_prepared(settings)


def test_tokens_are_stored_once_and_made_again_where_they_are_gone(settings):
    prepared = prepare(settings, lambda line: None)
    before = finished_shards(settings)
    stored = sum(path.stat().st_size for path in Path(settings.data.cache).rglob("*.bin"))
    tokens = sum(files.train_tokens + files.validation_tokens for files in prepared.corpora.values())
    overhead = sum(path.stat().st_size for path in Path(settings.data.cache).rglob("documents.bin"))
    assert stored - overhead < 2 * tokens * 1.2, "ids of two bytes, and validation once more"
    whole = contents(prepared.directory)
    first = shards_of(prepared.corpora["nl"].train)[0]
    shutil.rmtree(first)
    logged = []
    prepare(settings, logged.append)
    assert "shards that are gone; they are made again" in logged[0]
    assert contents(prepared.directory) == whole
    after = finished_shards(settings)
    assert [name for name in after if after[name] != before[name]] == [first.name]


def test_files_of_a_folder_that_are_not_read_are_counted_and_named(settings, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "nl.jsonl").rename(tmp_path / "texts/nl.jsonl")
    for name in ("movie.mp4", "notes.docx"):
        (tmp_path / "texts" / name).write_bytes(b"x")
    settings.data.corpora["nl"].paths = [str(tmp_path / "texts")]
    prepared = prepare(settings, lambda line: None)
    assert prepared.corpora["nl"].dropped["unknown file type"] == 2
    dropped = json.loads((prepared.directory / "nl/dropped.json").read_text())
    assert dropped["unknown file type"]["examples"] == [
        f"{tmp_path}/texts/{one}" for one in ("movie.mp4", "notes.docx")
    ]


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
