import os

import pytest

from conf.choices import Source
from conf.errors import ConfigError, DataError
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from train.data.fingerprint import fingerprint, selected_corpora


def test_what_decides_the_tokens_decides_the_name(settings, tmp_path):
    names = {fingerprint(settings)}
    assert fingerprint(settings) in names

    settings.model.vocab_size = 500
    names.add(fingerprint(settings))
    settings.data.filters.digit_fraction = 0.8
    names.add(fingerprint(settings))
    settings.data.validation_bytes = 100
    names.add(fingerprint(settings))
    settings.data.corpora["nl"].code = True
    names.add(fingerprint(settings))
    os.utime(tmp_path / "nl.jsonl", (1, 1))
    names.add(fingerprint(settings))
    settings.data.corpora["nl"].source = Source.local
    names.add(fingerprint(settings))
    assert len(names) == 7


def test_what_does_not_decide_the_tokens_does_not(settings):
    name = fingerprint(settings)
    settings.model.context_length = 32
    settings.stages["nl"].global_batch_size = 8
    settings.data.cache = "elsewhere"
    assert fingerprint(settings) == name


def test_only_corpora_that_say_where_they_are_are_prepared(settings):
    settings.data.corpora["code"].paths = []
    with pytest.raises(DataError, match=r"stage code trains on corpus code.*data\.corpora\.code\.paths=\[\.\.\.\]"):
        fingerprint(settings)
    del settings.stages["code"]
    assert list(selected_corpora(settings)) == ["nl"]
    settings.stages["nl"].corpus = "web"
    with pytest.raises(
        DataError, match=r"stage nl trains on corpus web, which data\.corpora does not have \(nl, code\)"
    ):
        fingerprint(settings)


def test_the_content_of_a_finished_tokenizer_decides_and_its_place_does_not(settings, tmp_path):
    names = {fingerprint(settings)}
    for place, text in (("one", "some words\n"), ("two", "some words\n"), ("three", "others\n")):
        SentencePieceTokenizer.train([text * 50], 400).save(tmp_path / place)
        settings.data.tokenizer.path = str(tmp_path / place)
        names.add(fingerprint(settings))
    assert len(names) == 3
    settings.data.tokenizer.path = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"data\.tokenizer\.path=.*none does not exist"):
        fingerprint(settings)
