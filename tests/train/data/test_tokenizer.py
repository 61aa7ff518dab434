"""The tokenizer of the data: taken or trained once, on training text of every corpus."""

import shutil
from dataclasses import replace

import pytest

import train.data.tokenizer as module
from conf.choices import Objective
from conf.errors import ConfigError, DataError
from conf.schema import RunConfig
from model.tokenizer import load_tokenizer
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.data.conftest import text, write_jsonl
from train.data.filters import is_held_out, text_sha256
from train.data.shard import list_shards
from train.data.tokenizer import given_tokenizer, origin, prepare_tokenizer, tokenizer_hash


def sample(settings, share):
    corpus = settings.data.corpora["nl"]
    return list(module._sample(list_shards("nl", corpus), corpus, settings.data, share))


def test_the_sample_is_spread_bounded_and_never_held_out(settings):
    texts = [text(seed) for seed in range(300)]
    held_out = {one for one in texts if is_held_out(text_sha256(one), settings.data.validation_fraction)}
    found = sample(settings, 20_000)
    assert 19_000 < sum(len(one.encode()) for one in found) <= 20_000
    assert held_out and not held_out & set(found)
    numbers = [int(one.split()[0]) for one in found]
    assert min(numbers) < 40 and max(numbers) > 200
    assert sorted(sample(settings, 10**9)) == sorted(set(texts) - held_out)


def test_of_many_shards_a_spread_choice_is_read(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.files.SHARD_BYTES", 1000)
    shards = list_shards("nl", settings.data.corpora["nl"])
    size = (tmp_path / "nl.jsonl").stat().st_size
    chosen = module._sampled(shards, size // 16 // 10)
    assert len(shards) > 50 and 5 <= len(chosen) <= 11 and shards.index(chosen[-1]) > 0.8 * len(shards)
    assert module._sampled(shards, size) == shards


def test_it_is_trained_once_for_all_corpora_whatever_the_stages(settings, monkeypatch, tmp_path):
    folder = prepare_tokenizer(settings)
    del settings.stages["code"]
    settings.data.validation_bytes = 7
    monkeypatch.setattr(module, "train_tokenizer", None)
    assert prepare_tokenizer(settings) == folder
    settings.data.tokenizer.path = str(folder)
    taken = prepare_tokenizer(settings)
    assert taken != folder and tokenizer_hash(taken) == tokenizer_hash(folder)
    assert load_tokenizer(taken).vocab_size == 400
    monkeypatch.setattr(module, "READING", 0)
    assert prepare_tokenizer(settings) != taken, "an earlier version may have read other ids from the same files"
    settings.data.tokenizer.path = None
    write_jsonl(tmp_path / "nl.jsonl", [text(seed) for seed in range(50)])
    with pytest.raises(TypeError):
        prepare_tokenizer(settings)  # other text: it would be trained


def test_without_a_path_it_is_the_first_stage_s_parent_s(settings, monkeypatch, tmp_path):
    parent = tmp_path / "parent"
    SentencePieceTokenizer.train([text(0, 2000)], 350).save(parent / "tokenizer")
    settings.stages["nl"].init_from = str(parent)
    settings.run = RunConfig(root=str(tmp_path), name="run")
    trained = given_tokenizer(replace(settings, stages={"code": settings.stages["code"]}))
    assert "vocab_size" not in trained and "files" not in trained and "files" in given_tokenizer(settings)
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_tokenizer", None)
        folder = prepare_tokenizer(settings)
    assert tokenizer_hash(folder) == tokenizer_hash(parent / "tokenizer")
    assert origin(settings) == f" of {parent / 'tokenizer'}"
    shutil.rmtree(parent / "tokenizer")  # weights that came without one
    assert prepare_tokenizer(settings) != folder and origin(settings) == ""


def test_one_that_cannot_infill_is_refused_before_anything_is_read(settings, tmp_path):
    settings.data.tokenizer.path = str(prepare_tokenizer(settings))
    settings.data.objective = Objective.infill
    with pytest.raises(ConfigError, match=r"data\.objective=infill needs <mask_1>, <sep>, <eom>, which"):
        prepare_tokenizer(settings)


@pytest.mark.parametrize("content", ["", '{"text": " "}\n'])
def test_files_without_text_are_named(content, settings, tmp_path):
    for corpus in settings.data.corpora.values():
        for path in corpus.paths:
            (tmp_path / path).write_text(content)
    with pytest.raises(DataError, match=r"no text to train the tokenizer on in data.corpora.nl \(.*nl.jsonl\), "):
        prepare_tokenizer(settings)


def test_named_tokens_and_a_template_come_after_its_ids_and_stay_with_it(settings):
    without = load_tokenizer(prepare_tokenizer(settings))
    settings.data.tokenizer.path = str(prepare_tokenizer(settings))
    settings.data.tokenizer.special_tokens, settings.data.tokenizer.chat_template = ["<a>", "<b>"], "moss"
    with pytest.raises(ConfigError, match=r"model.vocab_size=400 has no room for the tokenizer's 402 ids"):
        prepare_tokenizer(settings)
    settings.model.vocab_size = 402
    grown = load_tokenizer(prepare_tokenizer(settings))
    assert grown.encode("<b>x", "all") == [401, *without.encode("x")] and 401 not in grown.encode("<b>x")
    assert grown.chat_template and without.chat_template is None
    settings.data.tokenizer.path = str(prepare_tokenizer(settings))
    settings.data.tokenizer.special_tokens, settings.data.tokenizer.chat_template = [], None
    again = load_tokenizer(prepare_tokenizer(settings))
    assert (again.special_tokens, again.chat_template) == (grown.special_tokens, grown.chat_template)


def test_a_trained_tokenizer_leaves_room_for_named_tokens(settings):
    settings.data.tokenizer.special_tokens = ["<a>", "<b>"]
    tokenizer = load_tokenizer(prepare_tokenizer(settings))
    assert tokenizer.vocab_size == 400 and tokenizer.encode("<b>", "all") == [399]
