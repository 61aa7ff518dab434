"""Token files out of shards: the same documents whatever the shards, none of them twice, none in both splits."""

import ast
import json
import shutil

import pytest

from conf.errors import DataError
from model.tokenizer import load_tokenizer
from tests.train.data.conftest import text, write_jsonl
from train.data.assemble import assemble
from train.data.pool import make_shards
from train.data.prepare import prepare
from train.data.shard import ShardTask, list_shards, shard_name
from train.data.token_spans import open_tokens
from train.data.tokenizer import prepare_tokenizer


def run(settings, folder):
    """Make the shards of the two corpora, and the token files in `folder`: counts, manifest lines and ids."""
    tokenizer = prepare_tokenizer(settings)
    tasks = [
        ShardTask(
            shard,
            corpus,
            settings.data,
            tokenizer,
            "<u2",
            folder / "s" / shard_name(shard, corpus, settings.data, ""),
            settings.model.context_length,
        )
        for key, corpus in settings.data.corpora.items()
        for shard in list_shards(key, corpus)
    ]
    counts = assemble(make_shards(tasks, 1, lambda *_: None), settings.data, load_tokenizer(tokenizer), folder, {})
    lines = {
        key: [json.loads(line) for line in (folder / key / "manifest.jsonl").read_text().splitlines()] for key in counts
    }
    return counts, lines


@pytest.mark.parametrize("shard_bytes", [3000, 1 << 26])
def test_tokens_are_the_texts_with_an_eos_around_each(settings, tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", shard_bytes)
    counts, manifest = run(settings, tmp_path / "out")
    tokenizer = load_tokenizer(prepare_tokenizer(settings))
    texts = {f"{tmp_path}/nl.jsonl:{seed + 1}": text(seed) for seed in range(300)}
    for split in ("train", "validation"):
        rows = [row for row in manifest["nl"] if row["split"] == split]
        name = "train.spans" if split == "train" else "validation.bin"
        ids = open_tokens(tmp_path / "out/nl" / name, "<u2").read(0, 10**9)
        documents = tokenizer.decode(ids.tolist()).encode()
        assert len(ids) == counts["nl"][f"{split}_tokens"] and ids[0] == tokenizer.eos == ids[-1]
        assert len(documents) == counts["nl"][f"{split}_bytes"] == sum(row["bytes"] for row in rows)
        assert (ids == tokenizer.eos).sum() - 1 == counts["nl"][f"{split}_documents"] == len(rows)
        if shard_bytes == 1 << 26:  # without parts, lines are named by their number
            assert documents.decode() == "".join(texts[row["path"]] for row in rows)
    assert 0 < counts["nl"]["validation_bytes"] <= settings.data.validation_bytes
    assert sum(counts["code"]["languages"].values()) == counts["code"]["train_tokens"] - 1
    assert list(counts["code"]["languages"]) == ["Python"] and list(counts["nl"]["languages"]) == ["none"]
    above = counts["nl"]["dropped"]["above validation_bytes"]
    assert above > 0 and len(manifest["nl"]) + above == 300


def test_shards_do_not_decide_which_documents_are_kept(settings, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "nl.jsonl", [text(seed % 200) for seed in range(300)])
    settings.data.tokenizer.path = str(prepare_tokenizer(settings))
    whole = run(settings, tmp_path / "whole")
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 2000)
    parts = run(settings, tmp_path / "parts")
    assert parts[0] == whole[0]
    assert whole[0]["nl"]["dropped"]["duplicate"] == 100
    for key, lines in whole[1].items():
        assert [row["sha256"] for row in parts[1][key]] == [row["sha256"] for row in lines]
    dropped = json.loads((tmp_path / "parts/nl/dropped.json").read_text())
    assert dropped["duplicate"]["count"] == 100 and len(dropped["duplicate"]["examples"]) == 3
    place, _, shown = dropped["above validation_bytes"]["examples"][0].partition(": '")
    begins = ast.literal_eval("'" + shown.removesuffix("..."))
    assert place.startswith(f"{tmp_path}/nl.jsonl") and any(text(seed).startswith(begins) for seed in range(200))


def test_a_text_in_two_corpora_is_on_the_same_side_of_both_or_in_the_first_only(settings, tmp_path):
    _, manifest = run(settings, tmp_path / "each")
    splits = [{row["sha256"]: row["split"] for row in manifest[key]} for key in ("nl", "code")]
    assert len(splits[0].keys() & splits[1].keys()) > 80
    assert all(splits[0][sha256] == splits[1][sha256] for sha256 in splits[0].keys() & splits[1].keys())
    settings.data.dedup_across_corpora = True
    counts, manifest = run(settings, tmp_path / "across")
    assert not {row["sha256"] for row in manifest["nl"]} & {row["sha256"] for row in manifest["code"]}
    assert counts["nl"]["dropped"].get("duplicate", 0) == 0 and counts["code"]["dropped"]["duplicate"] == 100


def test_the_text_to_train_on_is_counted_by_repository(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.assemble.LARGEST_REPOSITORIES", 2)
    rows = [
        {"text": text(seed), "lang": "Python", "repo_name": ("one", "two", "one", "three", None)[seed % 5]}
        for seed in [*range(200, 500), *range(200, 250)]  # the last are duplicates
    ]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts, manifest = run(settings, tmp_path / "out")
    trained = [row for row in manifest["code"] if row["split"] == "train"]
    sizes = {
        name: sum(row["bytes"] for row in trained if row["repository"] == name) for name in ("one", "two", "three")
    }
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:2])
    assert counts["code"]["repositories"] == largest and "one" in largest
    assert (counts["code"]["other_repositories"], counts["nl"]["repositories"]) == (1, {})


@pytest.mark.parametrize("shard_bytes", [3000, 1 << 26])
def test_max_bytes_bounds_what_is_kept_and_what_is_read(settings, tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", shard_bytes)
    settings.data.corpora["nl"].max_bytes = 20_000
    settings.data.validation_bytes = 10**9
    counts, _ = run(settings, tmp_path / "out")
    assert 19_000 < counts["nl"]["train_bytes"] + counts["nl"]["validation_bytes"] <= 20_000
    shards = list_shards("nl", settings.data.corpora["nl"])
    made = len(list((tmp_path / "out/s").iterdir())) - len(list_shards("code", settings.data.corpora["code"]))
    assert made == 1 if len(shards) == 1 else made < len(shards) / 3


@pytest.mark.parametrize(
    ("texts", "fraction", "words"),
    [
        ([], 0.1, r"corpus nl \(.*nl\.jsonl\) is empty: no document was kept$"),
        (["", "  "], 0.1, "is empty: no document was kept; dropped: 2 empty"),
        (["one", "two"], 1e-9, r"none of its documents \(2\) is in the validation set.*data.validation_fraction"),
        (["one", "two"], 1 - 1e-9, r"all of its documents \(2\) are held out"),
    ],
)
def test_a_corpus_that_comes_to_nothing_is_one_clear_line(settings, tmp_path, texts, fraction, words):
    prepared = prepare_tokenizer(settings)
    settings.data.tokenizer.path = str(prepared)
    settings.data.validation_fraction = fraction
    write_jsonl(tmp_path / "nl.jsonl", texts)
    with pytest.raises(DataError, match=words) as error:
        prepare(settings, lambda line: None)
    assert "\n" not in str(error.value)


def test_a_damaged_shard_is_named(settings, tmp_path):
    run(settings, tmp_path / "out")
    for key in ("nl", "code"):
        shutil.rmtree(tmp_path / "out" / key)
    for path in (tmp_path / "out/s").glob("*/tokens.bin"):
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"tokens\.bin is damaged in the 64 KiB at byte 0; remove .*/out/s/.* and prepare"
    ):
        run(settings, tmp_path / "out")
