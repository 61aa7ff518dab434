import json

import numpy
import pytest

from conf.choices import OnError
from conf.errors import DataError
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.data.conftest import text, write_jsonl
from train.data.corpus import FilteredDocument, filter_documents, sample_for_tokenizer, write_tokens
from train.data.filters import text_sha256


def filtered(settings, tmp_path, key="nl"):
    return filter_documents(key, settings.data.corpora[key], settings.data, tmp_path / f"{key}.filtered.jsonl")


def read_filtered(found):
    return [FilteredDocument(**json.loads(line)) for line in found.file.read_text().splitlines()]


def with_texts(settings, tmp_path, texts):
    write_jsonl(tmp_path / "nl.jsonl", texts)
    return settings


def test_each_text_is_kept_once_and_each_drop_is_counted(settings, tmp_path):
    with_texts(settings, tmp_path, [text(seed) for seed in range(50)] * 2 + [" \n", "x" * 150, "y\n" * 9 + "x" * 1001])
    settings.data.corpora["nl"].code = True
    found = filtered(settings, tmp_path)
    assert found.documents == 50
    assert found.dropped == {"duplicate": 50, "empty": 1, "average line length": 2}
    assert [document.path for document in read_filtered(found)[:2]] == [
        f"{tmp_path}/nl.jsonl:{line}" for line in (1, 2)
    ]


def test_what_cannot_be_read_is_counted_under_skip(settings, tmp_path):
    with (tmp_path / "nl.jsonl").open("a") as file:
        file.write("not json\n")
    with pytest.raises(DataError, match=r"nl\.jsonl:301 is not JSON"):
        filtered(settings, tmp_path)
    settings.data.on_error = OnError.skip
    assert filtered(settings, tmp_path).dropped == {"unreadable": 1}


def test_max_bytes_bounds_what_is_kept(settings, tmp_path):
    settings.data.corpora["nl"].max_bytes = 20_000
    found = filtered(settings, tmp_path)
    assert 19_000 < found.bytes <= 20_000


def test_more_documents_move_none_between_the_parts(settings, tmp_path):
    def split():
        return {document.sha256: document.held_out for document in read_filtered(filtered(settings, tmp_path))}

    before = split()
    with_texts(settings, tmp_path, [text(seed) for seed in reversed(range(600))])
    after = split()
    assert len(after) == 600
    assert before.items() <= after.items()


def test_a_text_held_out_of_one_corpus_trains_no_other(settings, tmp_path):
    parts = {}
    for key in ("nl", "code"):
        for document in read_filtered(filtered(settings, tmp_path, key)):
            assert document.text.startswith("Python\n") == (key == "code")
            parts.setdefault(document.sha256, []).append(document.held_out)
    shared = [flags for flags in parts.values() if len(flags) == 2]
    assert len(shared) == 100
    assert all(len(set(flags)) == 1 for flags in shared)
    assert any(flags[0] for flags in shared)


def test_the_sample_for_the_tokenizer_is_spread_bounded_and_never_held_out(settings, tmp_path):
    found = filtered(settings, tmp_path)
    held_out = {document.text for document in read_filtered(found) if document.held_out}
    sample = list(sample_for_tokenizer(found, 20_000))
    assert 18_000 < sum(len(one.encode()) for one in sample) <= 20_000
    assert not held_out & set(sample)
    numbers = [int(one.split()[0]) for one in sample]
    assert min(numbers) < 40 and max(numbers) > 200
    assert sum(len(one) for one in sample_for_tokenizer(found, 10**9)) == found.train_bytes


def test_tokens_are_the_texts_with_an_eos_around_each(settings, tmp_path):
    found = filtered(settings, tmp_path)
    tokenizer = SentencePieceTokenizer.train(sample_for_tokenizer(found, 20_000), 400)
    parts = write_tokens("nl", found, tokenizer, "<u2", tmp_path / "nl")
    manifest = [json.loads(line) for line in (tmp_path / "nl" / "manifest.jsonl").read_text().splitlines()]
    documents = {document.sha256: document for document in read_filtered(found)}
    for split, part in parts.items():
        rows = [row for row in manifest if row["split"] == split]
        tokens = numpy.fromfile(tmp_path / "nl" / f"{split}.bin", dtype="<u2")
        expected = [tokenizer.eos]
        for row in rows:
            expected += [*tokenizer.encode(documents[row["sha256"]].text), tokenizer.eos]
        assert tokens.tolist() == expected
        assert part.tokens == len(tokens)
        assert part.documents == len(rows)
        assert part.bytes == sum(row["bytes"] for row in rows)
        assert part.bytes == len(tokenizer.decode(tokens.tolist()).encode())
    assert 0 < parts["validation"].bytes <= settings.data.validation_bytes
    above = found.dropped["above validation_bytes"]
    assert above > 0
    assert len(manifest) + above == found.documents
    assert all(row["sha256"] == text_sha256(documents[row["sha256"]].text).hex() for row in manifest)


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
    settings.data.validation_fraction = fraction
    with pytest.raises(DataError, match=words) as error:
        filtered(with_texts(settings, tmp_path, texts), tmp_path)
    assert "\n" not in str(error.value)
